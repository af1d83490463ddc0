"""Build the inputs of an advantage: the rewards of a step's episodes as tensors.

P groups of at most G episodes of at most K turns. Smaller groups and shorter episodes are padded;
masks mark the valid entries.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from envgym.episode import Episode
from envgym.terms import PENALTY, total
from envgym_trainer.algorithms.advantages import AdvantageInputs
from envgym_trainer.algorithms.conversation_states import Criterion, state_keys
from envgym_trainer.algorithms.overlong import overlong_penalty
from envgym_trainer.config.algorithm import AlgorithmConfig

Groups = Sequence[Sequence[Episode]]

REWARD = "reward"
"""Name of the only part of a reward without terms."""
REST_THRESHOLD = 1e-5
"""Largest difference between a reward and the sum of its terms that counts as rounding error."""


def advantage_inputs(
    groups: Groups, algorithm: AlgorithmConfig, *, dtype: torch.dtype = torch.float32
) -> AdvantageInputs:
    """Return the rewards of one step as tensors.

    Args:
        groups: Episodes of one step; at least one group.
        algorithm: Settings; only the overlong penalty is used.
        dtype: Type of the rewards.
    """
    valid = episode_table(groups, is_valid, dtype=torch.bool)
    rewards = episode_table(groups, lambda episode: _reward(episode, algorithm), dtype=dtype)
    names = weighted_names(groups)
    parts, part_valid, part_weights = _part_tables(groups, rewards, names)
    turns = max(1, *(len(e.turn_rewards) for group in groups for e in group if is_valid(e)), 0)
    return AdvantageInputs(
        rewards=rewards,
        valid=valid,
        parts=parts,
        part_valid=part_valid,
        part_weights=part_weights,
        part_names=(*names, PENALTY if names else REWARD),
        turn_rewards=turn_table(
            groups, lambda e: with_overlong(e.turn_rewards, e, algorithm), turns, dtype=dtype
        ),
        turn_valid=turn_table(groups, lambda e: [1] * len(e.turn_rewards), turns, dtype=torch.bool),
        invalid_calls=turn_table(groups, _invalid_calls, turns, dtype=torch.int64),
        states=_state_table(groups, "history", turns),
        observations=_state_table(groups, "observation", turns),
    )


def is_valid(episode: Episode) -> bool:
    """Return whether the episode has a reward, which a void one has not."""
    return episode.reward is not None and not math.isnan(episode.reward)


def overlong(episode: Episode, algorithm: AlgorithmConfig) -> float:
    """Return the overlong penalty of an episode, 0 or less."""
    limits = algorithm.overlong_penalty
    if limits is None or episode.tokens is None:
        return 0.0
    length = torch.tensor(float(sum(episode.tokens.loss_mask)))
    return float(
        overlong_penalty(length, max_tokens=limits.max_tokens, cache_tokens=limits.slope_tokens)
    )


def with_overlong(
    turn_rewards: Sequence[float], episode: Episode, algorithm: AlgorithmConfig
) -> list[float]:
    """Return the rewards of the turns with the overlong penalty in the last one."""
    paid = list(turn_rewards)
    if paid:
        paid[-1] += overlong(episode, algorithm)
    return paid


def episode_table(
    groups: Groups, number: Callable[[Episode], float], *, dtype: torch.dtype
) -> Tensor:
    """Return a number of each valid episode, shape (P, G); 0 if not valid."""
    width = max(len(group) for group in groups)
    rows = [
        [number(e) if is_valid(e) else 0 for e in group] + [0] * (width - len(group))
        for group in groups
    ]
    return torch.tensor(rows, dtype=dtype)


def turn_table(
    groups: Groups,
    numbers: Callable[[Episode], Sequence[float]],
    turns: int,
    *,
    dtype: torch.dtype,
    fill: int = 0,
) -> Tensor:
    """Return the numbers of each turn, shape (P, G, K); `fill` if not valid."""
    width = max(len(group) for group in groups)
    table = torch.full((len(groups), width, turns), fill, dtype=dtype)
    for p, group in enumerate(groups):
        for g, episode in enumerate(group):
            if is_valid(episode):
                row = torch.tensor(numbers(episode)[:turns], dtype=dtype)
                table[p, g, : len(row)] = row
    return table


def weighted_names(groups: Groups) -> list[str]:
    """Return the names of terms with a nonzero weight, without the penalty, sorted."""
    terms = {
        name
        for group in groups
        for episode in group
        for name, term in episode.reward_terms.items()
        if term.weight
    }
    return sorted(terms - {PENALTY})


def _reward(episode: Episode, algorithm: AlgorithmConfig) -> float:
    return (episode.reward or 0.0) + overlong(episode, algorithm)


def _invalid_calls(episode: Episode) -> Sequence[int]:
    return episode.turn_invalid_calls or (0,) * len(episode.turn_rewards)


def _part_tables(
    groups: Groups, rewards: Tensor, names: Sequence[str]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return values (M, P, G), their mask and weights (M,) of the parts and of the rest.

    The rest is what the parts do not explain: a penalty, the overlong penalty, or the whole reward
    of an environment without parts. The weighted parts always add up to the reward.
    """
    size = len(names) + 1
    values = torch.zeros((size, *rewards.shape), dtype=rewards.dtype)
    valid = torch.zeros(values.shape, dtype=torch.bool)
    weights = [1.0] * size
    for p, group in enumerate(groups):
        for g, episode in enumerate(group):
            if not is_valid(episode):
                continue
            terms = {
                name: episode.reward_terms[name]
                for name in names
                if name in episode.reward_terms and episode.reward_terms[name].value is not None
            }
            for m, name in enumerate(names):
                if name in terms:
                    values[m, p, g] = terms[name].value or 0.0
                    weights[m] = terms[name].weight
                    valid[m, p, g] = True
            rest = float(rewards[p, g]) - total(terms)
            values[-1, p, g] = rest if abs(rest) > REST_THRESHOLD else 0.0
            valid[-1, p, g] = True
    return values, valid, torch.tensor(weights, dtype=rewards.dtype)


def _state_table(groups: Groups, by: Criterion, turns: int) -> Tensor:
    """Return the number of the state before each turn, shape (P, G, K), int64; -1 if not valid."""
    width = max(len(group) for group in groups)
    table = torch.full((len(groups), width, turns), -1, dtype=torch.int64)
    numbers: dict[tuple[int, str], int] = {}
    for p, group in enumerate(groups):
        for g, episode in enumerate(group):
            if is_valid(episode):
                keys = state_keys(episode, by)[: len(episode.turn_rewards)]
                for k, key in enumerate(keys):
                    table[p, g, k] = numbers.setdefault((p, key), len(numbers))
    return table
