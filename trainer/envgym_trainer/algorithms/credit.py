"""Build training samples from episodes: assign an advantage to each sampled token.

See `advantages/` for the mathematics and `episode_tables.py` for its inputs.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from envgym.episode import Episode
from envgym.errors import UsageError
from envgym_trainer.algorithms.advantages import AdvantageInputs
from envgym_trainer.algorithms.episode_tables import Groups, advantage_inputs, is_valid
from envgym_trainer.algorithms.registry import find_advantage
from envgym_trainer.algorithms.turn_tokens import spread_over_turns, turn_spans
from envgym_trainer.batch import Sample
from envgym_trainer.config.algorithm import AlgorithmConfig


def build_samples(groups: Groups, algorithm: AlgorithmConfig | None = None) -> list[Sample]:
    """Return the samples of all groups in one list; see `samples_by_group`."""
    return [sample for group in samples_by_group(groups, algorithm) for sample in group]


def samples_by_group(
    groups: Groups, algorithm: AlgorithmConfig | None = None
) -> list[list[Sample]]:
    """Return the samples of each group with their advantages.

    Void episodes and episodes without tokens are skipped.

    Args:
        groups: Episodes of one step. Normalization over the batch uses all of them.
        algorithm: Settings; the default preset if `None`.

    Raises:
        UsageError: If the advantage is one for each turn, and the record does not have one reward
            for each turn.
    """
    algorithm = algorithm or AlgorithmConfig()
    if not groups:
        return []
    values = advantages(groups, advantage_inputs(groups, algorithm), algorithm)
    samples: list[list[Sample]] = []
    for p, group in enumerate(groups):
        made = [_sample(e, values[p, g], algorithm) for g, e in enumerate(group) if is_valid(e)]
        samples.append([sample for sample in made if sample])
    return samples


def demonstration(episode: Episode) -> Sample | None:
    """Return the supervised sample of an oracle episode, or `None` if the episode is void."""
    trace = episode.tokens
    return None if trace is None or episode.is_void else Sample.from_trace(trace, advantage=1.0)


def advantages(groups: Groups, inputs: AdvantageInputs, algorithm: AlgorithmConfig) -> Tensor:
    """Return the configured advantage of each episode, shape (P, G), or turn, shape (P, G, K).

    Args:
        groups: Episodes of one step.
        inputs: Their rewards, from `advantage_inputs`.
        algorithm: Settings.

    Raises:
        UsageError: If the result has another shape, or if it is one number for each turn and an
            episode does not have one reward for each turn.
    """
    name = algorithm.advantage.name
    values = find_advantage(name)(inputs, **algorithm.advantage.options)
    if values.shape not in (inputs.rewards.shape, inputs.turn_rewards.shape):
        raise UsageError(
            f"advantage '{name}' returned the shape {tuple(values.shape)}. It must be (P, G) = "
            f"{tuple(inputs.rewards.shape)} or (P, G, K) = {tuple(inputs.turn_rewards.shape)}."
        )
    if values.ndim == 3:
        _require_turn_rewards(groups)
    return values


def _require_turn_rewards(groups: Groups) -> None:
    for episode in (episode for group in groups for episode in group if is_valid(episode)):
        mask = () if episode.tokens is None else episode.tokens.loss_mask
        turns = len(turn_spans(torch.tensor(mask, dtype=torch.bool)))
        if turns != len(episode.turn_rewards):
            raise UsageError(
                f"an episode of task '{episode.task_id}' has {turns} turns of sampled tokens but "
                f"{len(episode.turn_rewards)} turn rewards. Credit by turns needs one reward for "
                "each turn. Set train.algorithm.advantage.name=group for this environment or "
                "record."
            )


def _sample(episode: Episode, advantage: Tensor, algorithm: AlgorithmConfig) -> Sample | None:
    """Return the sample of an episode; `advantage` is a scalar, or has shape (K,)."""
    trace = episode.tokens
    if trace is None or episode.is_void:
        return None
    is_cut = episode.truncated or episode.is_clipped
    weight = 0.0 if algorithm.mask_truncated and is_cut else 1.0
    sample = Sample(
        trace.token_ids, trace.loss_mask, trace.logprobs, 0.0, weight, starts=trace.starts
    )
    if not advantage.ndim:
        return dataclasses.replace(sample, advantage=float(advantage))
    by_turn = advantage[: len(episode.turn_rewards)]
    by_token = spread_over_turns(by_turn, torch.tensor(trace.loss_mask))
    return dataclasses.replace(sample, token_advantages=tuple(by_token.tolist()))
