"""The `train.rollout` block: how episodes are collected."""

from __future__ import annotations

from pydantic import Field

from envgym.block import Block


class RolloutConfig(Block):
    groups_per_step: int = Field(default=4, ge=1)
    """Number of groups a step, each on a new task. At least 1."""
    group_size: int = Field(default=8, ge=2)
    """Number of episodes of a group: one task, one identical start. At least 2."""
    max_extra_groups: int = Field(default=0, ge=0)
    """Maximum number of extra groups a step. Each replaces a group without reward variance (dynamic
    sampling, DAPO). At least 0; 0 turns it off."""
    max_turn_tokens: int = Field(default=64, ge=1)
    """Maximum size of one turn of the model. Tokens. At least 1."""
    max_context_tokens: int = Field(default=2048, ge=64)
    """Maximum size of a whole dialogue. Tokens. At least 64. A longer episode is truncated."""
    temperature: float = Field(default=1.0, gt=0)
    """Temperature of sampling, and of the learner's logprobs. Above 0."""
    max_concurrent_episodes: int = Field(default=64, ge=1)
    """Maximum number of episodes at once, and of rows of the engine's batch. At least 1."""
    one_step_ahead: bool = False
    """Collect the next step's episodes while this step is learned from, with the adapter from
    before the update: for a server, or for slow tools. The step after a checkpoint or a validation
    is always collected afresh."""
    deterministic: bool = False
    """Play all episodes in lockstep, so that a run, resumed or not, ends with the same bits on one
    CPU. Slower: each turn waits for the slowest episode. Otherwise runs differ in the last bits."""
