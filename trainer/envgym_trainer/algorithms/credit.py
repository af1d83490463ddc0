"""Build training samples from episodes: assign an advantage to each sampled token.

Groups become tables of shape (P, G) with NaN for void members. See `advantages*.py` for the
mathematics and `algorithms.py` for the settings.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from envgym.episode import Episode
from envgym.errors import UsageError
from envgym.terms import PENALTY, total
from envgym_trainer.algorithms.advantages.gdpo import gdpo_advantages
from envgym_trainer.algorithms.advantages.gigpo import step_advantages
from envgym_trainer.algorithms.advantages.group import group_advantages
from envgym_trainer.algorithms.advantages.reinforce_pp import reinforce_pp_advantages
from envgym_trainer.algorithms.advantages.rloo import rloo_advantages
from envgym_trainer.algorithms.advantages.turns import (
    returns_to_go,
    spread_over_turns,
    turn_advantages,
    turn_spans,
)
from envgym_trainer.algorithms.credit_states import anchor_states
from envgym_trainer.algorithms.overlong import overlong_penalty
from envgym_trainer.batch import Sample
from envgym_trainer.config.algorithm import AlgorithmConfig

Groups = Sequence[Sequence[Episode]]


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
    """
    algorithm = algorithm or AlgorithmConfig()
    if not groups:
        return []
    rewards = episode_rewards(groups, algorithm)  # (P, G)
    valid = ~rewards.isnan()
    if algorithm.advantage.name not in ("turns", "gigpo"):
        values = episode_advantages(groups, algorithm, rewards, valid)  # (P, G)
        return [
            [
                s
                for g, e in enumerate(group)
                if valid[p, g] and (s := _sample(e, float(values[p, g]), algorithm))
            ]
            for p, group in enumerate(groups)
        ]
    values = turn_values(groups, algorithm, rewards, valid)
    return [
        [
            s
            for g, e in enumerate(group)
            if valid[p, g] and (s := _turn_sample(e, values[p][g], algorithm))
        ]
        for p, group in enumerate(groups)
    ]


def demonstration(episode: Episode) -> Sample | None:
    """Return the supervised sample of an oracle episode, or `None` if the episode is void."""
    trace = episode.tokens
    return None if trace is None or episode.is_void else Sample.from_trace(trace, advantage=1.0)


def episode_rewards(
    groups: Groups, algorithm: AlgorithmConfig, *, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Return rewards with the overlong penalty, shape (P, G).

    Void members are NaN, and so is the padding of groups smaller than the largest.
    """
    width = max((len(group) for group in groups), default=0)
    reward = lambda episode: (
        math.nan if episode.reward is None else episode.reward + overlong(episode, algorithm)
    )
    return torch.tensor(
        [[*map(reward, group), *[math.nan] * (width - len(group))] for group in groups], dtype=dtype
    )


def overlong(episode: Episode, algorithm: AlgorithmConfig) -> float:
    limits = algorithm.overlong_penalty
    if limits is None or episode.tokens is None:
        return 0.0
    length = torch.tensor(float(sum(episode.tokens.loss_mask)))
    return float(
        overlong_penalty(length, max_tokens=limits.max_tokens, cache_tokens=limits.slope_tokens)
    )


def episode_advantages(
    groups: Groups, algorithm: AlgorithmConfig, rewards: Tensor, valid: Tensor
) -> Tensor:
    """Return episode advantages of `rewards`, shape (P, G), as `algorithm` asks for."""
    if algorithm.advantage.name == "rloo":
        return rloo_advantages(rewards, valid=valid)
    if algorithm.advantage.name in ("reinforce_pp", "reinforce_pp_baseline"):
        baseline = algorithm.advantage.name == "reinforce_pp_baseline"
        return reinforce_pp_advantages(
            rewards, valid=valid, baseline=baseline, eps=algorithm.advantage.eps
        )
    if algorithm.advantage.name == "gdpo":
        parts, part_weights = part_table(groups, rewards)
        return gdpo_advantages(
            parts,
            part_weights,
            valid=~parts.isnan(),
            ddof=algorithm.advantage.ddof,
            eps=algorithm.advantage.eps,
        )
    return group_advantages(
        rewards,
        valid=valid,
        scale_by_std=algorithm.advantage.std != "none",
        std="batch" if algorithm.advantage.std == "batch" else "group",
        ddof=algorithm.advantage.ddof,
        eps=algorithm.advantage.eps,
    )


def part_table(groups: Groups, rewards: Tensor) -> tuple[Tensor, Tensor]:
    """Split the reward of each episode into parts.

    A remainder that the parts do not explain (a penalty, the overlong penalty, an environment
    without parts) becomes the last part, of weight 1. The weighted parts always add up to the
    reward.

    Returns:
        Values, shape (K, P, G), NaN if a part does not apply, and weights, shape (K,).
    """
    names = weighted_names(groups)
    table = torch.full((len(names) + 1, *rewards.shape), math.nan, dtype=rewards.dtype)
    weights = [1.0] * (len(names) + 1)
    for p, group in enumerate(groups):
        for g, episode in enumerate(group):
            if rewards[p, g].isnan():
                continue
            terms = {
                name: term
                for name, term in episode.reward_terms.items()
                if name in names and term.value is not None
            }
            rest = float(rewards[p, g]) - total(terms)
            for k, name in enumerate(names):
                if name in terms:
                    table[k, p, g], weights[k] = terms[name].value or 0.0, terms[name].weight
            table[-1, p, g] = rest if abs(rest) > 1e-5 else 0.0
    return table, torch.tensor(weights, dtype=rewards.dtype)


def weighted_names(groups: Groups) -> list[str]:
    """Return names of terms with a nonzero weight, without the penalty, in `part_table` order."""
    terms = {
        name
        for group in groups
        for episode in group
        for name, term in episode.reward_terms.items()
        if term.weight
    }
    return sorted(terms - {PENALTY})


def turn_values(
    groups: Groups, algorithm: AlgorithmConfig, rewards: Tensor, valid: Tensor
) -> list[list[Tensor]]:
    """Return the advantages of each episode's turns, shape (K,), for credit by turns or steps."""
    if algorithm.advantage.name == "gigpo":
        return _step_values(
            groups, algorithm, valid, episode_advantages(groups, algorithm, rewards, valid)
        )
    returns = [
        [
            _returns(episode, algorithm) if valid[p, g] else torch.zeros(0)
            for g, episode in enumerate(group)
        ]
        for p, group in enumerate(groups)
    ]
    longest = max((len(row) for group in returns for row in group), default=0)
    table = torch.full((*valid.shape, longest), math.nan)
    for p, group in enumerate(returns):
        for g, row in enumerate(group):
            table[p, g, : len(row)] = row
    advantages = turn_advantages(
        table, valid=~table.isnan(), std=algorithm.advantage.std, eps=algorithm.advantage.eps
    )  # (P, G, K)
    return [
        [advantages[p, g, : len(row)] for g, row in enumerate(group)]
        for p, group in enumerate(returns)
    ]


def _step_values(
    groups: Groups, algorithm: AlgorithmConfig, valid: Tensor, episode_wise: Tensor
) -> list[list[Tensor]]:
    """Return turn advantages, shape (K,): episode advantage plus weighted step advantage."""
    numbers: dict[tuple[int, str], int] = {}
    returns = []
    states = []
    owners = []
    for p, group in enumerate(groups):
        for g, episode in enumerate(group):
            if not valid[p, g]:
                continue
            own = _returns(episode, algorithm)
            keys = anchor_states(episode, algorithm.advantage.same_state)[: len(own)]
            returns.append(own)
            states += [numbers.setdefault((p, key), len(numbers)) for key in keys]
            owners += [(p, g)] * len(own)
    values = [[torch.zeros(0) for _ in group] for group in groups]
    if owners:
        steps = step_advantages(
            torch.cat(returns),
            torch.tensor(states),
            scale_by_std=algorithm.advantage.std != "none",
            eps=algorithm.advantage.eps,
        )
        for (p, g), step in zip(owners, steps, strict=True):
            values[p][g] = torch.cat(
                [values[p][g], (episode_wise[p, g] + algorithm.advantage.step_weight * step)[None]]
            )
    return values


def _returns(episode: Episode, algorithm: AlgorithmConfig) -> Tensor:
    """Return discounted returns by turn, shape (K,). The last turn gets the overlong penalty.

    Raises:
        UsageError: If the record does not have one reward for each turn.
    """
    spans = 0 if episode.tokens is None else len(turn_spans(torch.tensor(episode.tokens.loss_mask)))
    if spans != len(episode.turn_rewards):
        raise UsageError(
            f"an episode of task '{episode.task_id}' has {spans} turns of sampled tokens but "
            f"{len(episode.turn_rewards)} turn rewards. Credit by turns needs one reward for each "
            "turn. Set train.algorithm.advantage.name=group for this environment or record."
        )
    mistakes = episode.turn_invalid_calls or (0,) * spans
    rewards = [
        reward - algorithm.advantage.invalid_call_penalty * n
        for reward, n in zip(episode.turn_rewards, mistakes, strict=True)
    ]
    if rewards:
        rewards[-1] += overlong(episode, algorithm)
    return returns_to_go(torch.tensor(rewards), discount=algorithm.advantage.discount)


def _turn_sample(episode: Episode, values: Tensor, algorithm: AlgorithmConfig) -> Sample | None:
    sample = _sample(episode, 0.0, algorithm)
    if sample is None:
        return None
    return dataclasses.replace(
        sample,
        token_advantages=tuple(spread_over_turns(values, torch.tensor(sample.loss_mask)).tolist()),
    )


def _sample(episode: Episode, advantage: float, algorithm: AlgorithmConfig) -> Sample | None:
    trace = episode.tokens
    if trace is None or episode.is_void:
        return None
    weight = 0.0 if algorithm.mask_truncated and episode.truncated else 1.0
    return Sample(trace.token_ids, trace.loss_mask, trace.logprobs, advantage, weight)
