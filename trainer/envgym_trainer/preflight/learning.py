"""Preflight checks of the first step: adapter, parsing of the model's turns, reward variance."""

from __future__ import annotations

from collections import Counter

from envgym.episode import Episode
from envgym.evaluation.checks.fixture import CheckResult, describe_episode
from envgym_trainer.model.lora import lora_layers
from envgym_trainer.preflight.context import PreflightContext
from envgym_trainer.run.metrics import ZERO_STD

GROUPS = 8
"""Maximum number of groups without variance before a run is refused.

With 8 x 8 episodes and a model that solves 4.6 % of its tasks, 1 of 20 runs has only such groups.
"""
PEEK = (2, 2)
"""Number and size of groups for the short check if a warm start comes first."""


def adapter(subject: PreflightContext) -> CheckResult:
    """Report the trained parameters. Warn about dropout, because it changes logprobs."""
    lora = subject.config.lora
    layers = len(lora_layers(subject.model))
    count = sum(weight.numel() for weight in subject.model.parameters() if weight.requires_grad)
    words = f"{layers} layers, {count:,} numbers, rank {lora.rank}"
    if lora.dropout:
        why = (
            "at the first update the ratio to the sampled probabilities is not 1, so clipping "
            "starts early"
        )
        return CheckResult(
            "adapter",
            True,
            f"{words}; dropout {lora.dropout:g}: {why}. Set train.lora.dropout=0",
            warning=True,
        )
    return CheckResult(
        "adapter",
        True,
        words if subject.config.output.adapter != "none" else f"{words}; nothing is exported",
    )


def model(subject: PreflightContext) -> CheckResult:
    """Play some tasks as in training, and report how the model's turns were parsed."""
    has_warm_start = subject.config.warm_start.episodes > 0
    groups, size = (
        PEEK if has_warm_start and not subject.is_full else (1, subject.config.rollout.group_size)
    )
    episodes = [episode for group in subject.play_groups(groups, size) for episode in group]
    void = [describe_episode(episode) for episode in episodes if episode.is_void]
    if len(void) > len(episodes) / 2:
        return CheckResult(
            "model",
            False,
            f"{len(void)} of {len(episodes)} episodes are void: {void[0]}. For details: "
            "envgym check",
        )
    modes = _modes(episodes)
    turns = sum(modes.values())
    if not turns:
        return CheckResult("model", True, f"{len(episodes)} episodes played")
    called = turns - modes["none"] - modes["invalid"]
    detail = (
        f"{called} of {turns} turns were parsed as a tool call, {modes['none']} as text, "
        f"{modes['invalid']} are invalid"
    )
    if called == 0 and not has_warm_start and subject.has_own_tasks:
        return CheckResult(
            "model",
            True,
            f"{detail}. A warm start teaches the format: train.warm_start.episodes=64",
            warning=True,
        )
    return CheckResult(
        "model", True, detail + ("; a warm start comes first" if has_warm_start else "")
    )


def rewards_differ(subject: PreflightContext) -> CheckResult:
    """Check that the rewards of some group differ. Without reward variance there is no gradient."""
    config = subject.config
    if config.steps == 0:
        return CheckResult("rewards_differ", True, "not checked, because train.steps is 0")
    groups = list(subject.groups)
    if config.warm_start.episodes == 0 or subject.is_full:
        while not any(map(is_mixed, groups)) and len(groups) < GROUPS:
            groups += subject.play_groups(
                min(GROUPS - len(groups), max(1, len(groups))), config.rollout.group_size
            )
    rewards = [
        episode.reward for group in groups for episode in group if episode.reward is not None
    ]
    mixed = sum(map(is_mixed, groups))
    if mixed:
        return CheckResult(
            "rewards_differ",
            True,
            f"in {mixed} of {len(groups)} groups; mean {sum(rewards) / len(rewards):.2f}",
        )
    if config.warm_start.episodes:
        detail = (
            f"not yet, in {len(groups)} groups; a warm start of {config.warm_start.episodes} "
            "demonstrations comes first"
        )
        return CheckResult("rewards_differ", True, detail)
    return CheckResult("rewards_differ", False, _alike(subject, groups, rewards))


def is_mixed(group: list[Episode]) -> bool:
    """Return whether two members of a group have different rewards."""
    rewards = [episode.reward for episode in group if episode.reward is not None]
    return bool(rewards) and max(rewards) - min(rewards) > ZERO_STD


def _modes(episodes: list[Episode]) -> Counter[str]:
    modes: Counter[str] = Counter()
    for episode in episodes:
        modes.update(episode.dialects)
    return modes


def _alike(subject: PreflightContext, groups: list[list[Episode]], rewards: list[float]) -> str:
    """Return why groups without reward variance cannot be learned from, with a remedy."""
    where = f"all {len(rewards)} episodes of {len(groups)} groups"
    if (
        rewards
        and min(rewards) > 0
        and all(episode.success for group in groups for episode in group)
    ):
        return (
            f"{where} were solved, so there is no gradient. Train harder tasks "
            "(train.tasks.levels), or evaluate the model without training"
        )
    worth = (
        f"the reward {rewards[0]:g}"
        if rewards and max(rewards) - min(rewards) <= ZERO_STD
        else "the reward of their group"
    )
    warm = "a warm start on the oracle (train.warm_start.episodes=64)"
    easier = "easier tasks (train.tasks.levels, a curriculum)"
    partial = "a partial reward (a weight on state_progress)"
    if not subject.has_own_tasks:
        warm = "a stronger model (train.model.name)"
        easier = "easier seeds"
        partial = "a partial reward"
    return f"{where} have {worth}, so no step has a gradient. Use {warm}, {easier}, or {partial}"
