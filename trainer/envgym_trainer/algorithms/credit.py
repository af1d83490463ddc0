"""Episodes -> samples: which advantage each sampled token carries, as `train.algorithm` asks for.

Groups of episodes become tables (P, G) with holes for void members; the mathematics on them is in `advantages*.py`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from envgym.episode import Episode
from envgym.errors import UsageError
from envgym.terms import FORFEIT, total
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


def samples_of(groups: Groups, algorithm: AlgorithmConfig | None = None) -> list[Sample]:
    """The samples of all groups in one list; see `lessons_of`."""
    return [sample for group in lessons_of(groups, algorithm) for sample in group]


def lessons_of(groups: Groups, algorithm: AlgorithmConfig | None = None) -> list[list[Sample]]:
    """The samples of each group, with their advantages; void episodes and those without tokens are left out.

    Args:
        groups: the episodes of one step; what is normalised over the batch is normalised over all of them.
        algorithm: the default preset when not given.
    """
    algorithm = algorithm or AlgorithmConfig()
    if not groups:
        return []
    rewards = episode_rewards(groups, algorithm)  # (P, G)
    valid = ~rewards.isnan()
    if algorithm.credit == "episode":
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
    """The sample of an oracle's episode, for supervised steps; None for a void one."""
    trace = episode.tokens
    return None if trace is None or episode.void else Sample.from_trace(trace, advantage=1.0)


def episode_rewards(
    groups: Groups, algorithm: AlgorithmConfig, *, dtype: torch.dtype = torch.float32
) -> Tensor:
    """(P, G) rewards with the overlong punishment, NaN for void members and where a group is smaller than others."""
    width = max((len(group) for group in groups), default=0)
    reward = lambda episode: (
        math.nan if episode.reward is None else episode.reward + overlong(episode, algorithm)
    )
    return torch.tensor(
        [[*map(reward, group), *[math.nan] * (width - len(group))] for group in groups], dtype=dtype
    )


def overlong(episode: Episode, algorithm: AlgorithmConfig) -> float:
    limits = algorithm.overlong
    if limits is None or episode.tokens is None:
        return 0.0
    length = torch.tensor(float(sum(episode.tokens.loss_mask)))
    return float(
        overlong_penalty(length, max_tokens=limits.max_tokens, cache_tokens=limits.cache_tokens)
    )


def episode_advantages(
    groups: Groups, algorithm: AlgorithmConfig, rewards: Tensor, valid: Tensor
) -> Tensor:
    """(P, G), of `episode_rewards` and where they are no NaN."""
    if algorithm.advantage == "rloo":
        return rloo_advantages(rewards, valid=valid)
    if algorithm.advantage in ("reinforce_pp", "reinforce_pp_baseline"):
        baseline = algorithm.advantage == "reinforce_pp_baseline"
        return reinforce_pp_advantages(rewards, valid=valid, baseline=baseline, eps=algorithm.eps)
    if algorithm.advantage == "gdpo":
        parts, part_weights = part_table(groups, rewards)
        return gdpo_advantages(
            parts, part_weights, valid=~parts.isnan(), ddof=algorithm.ddof, eps=algorithm.eps
        )
    return group_advantages(
        rewards,
        valid=valid,
        scale_by_std=algorithm.std != "none",
        std="batch" if algorithm.std == "batch" else "group",
        ddof=algorithm.ddof,
        eps=algorithm.eps,
    )


def part_table(groups: Groups, rewards: Tensor) -> tuple[Tensor, Tensor]:
    """The reward of each episode taken apart: (K, P, G) values, NaN where a part did not apply, and (K,) weights.

    What the parts do not explain of the reward (a forfeit, the overlong punishment, an environment that reports no parts) is one
    more part of weight 1, so that the weighted parts always sum to the reward.
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
    """The terms that count for something, a forfeit apart, in the order of `part_table`."""
    terms = {
        name
        for group in groups
        for episode in group
        for name, term in episode.reward_terms.items()
        if term.weight
    }
    return sorted(terms - {FORFEIT})


def turn_values(
    groups: Groups, algorithm: AlgorithmConfig, rewards: Tensor, valid: Tensor
) -> list[list[Tensor]]:
    """For each episode the advantage of each turn, (K,), where credit is for turns or steps."""
    if algorithm.credit == "steps":
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
        table, valid=~table.isnan(), std=algorithm.std, eps=algorithm.eps
    )  # (P, G, K)
    return [
        [advantages[p, g, : len(row)] for g, row in enumerate(group)]
        for p, group in enumerate(returns)
    ]


def _step_values(
    groups: Groups, algorithm: AlgorithmConfig, valid: Tensor, episode_wise: Tensor
) -> list[list[Tensor]]:
    """For each episode the advantage of each turn, (K,): the episode's own plus that among the turns from equal states."""
    numbers: dict[tuple[int, str], int] = {}
    returns = []
    states = []
    owners = []
    for p, group in enumerate(groups):
        for g, episode in enumerate(group):
            if not valid[p, g]:
                continue
            own = _returns(episode, algorithm)
            keys = anchor_states(episode, algorithm.anchor)[: len(own)]
            returns.append(own)
            states += [numbers.setdefault((p, key), len(numbers)) for key in keys]
            owners += [(p, g)] * len(own)
    values = [[torch.zeros(0) for _ in group] for group in groups]
    if owners:
        steps = step_advantages(
            torch.cat(returns),
            torch.tensor(states),
            scale_by_std=algorithm.std != "none",
            eps=algorithm.eps,
        )
        for (p, g), step in zip(owners, steps, strict=True):
            values[p][g] = torch.cat(
                [values[p][g], (episode_wise[p, g] + algorithm.step_weight * step)[None]]
            )
    return values


def _returns(episode: Episode, algorithm: AlgorithmConfig) -> Tensor:
    """(K,) discounted return from each turn on; the overlong punishment falls on the last turn.

    Raises: UsageError where the record does not tell what each turn earned.
    """
    spans = 0 if episode.tokens is None else len(turn_spans(torch.tensor(episode.tokens.loss_mask)))
    if spans != len(episode.turn_rewards):
        raise UsageError(
            f"an episode of task '{episode.task_id}' has {spans} turns of sampled tokens but rewards of "
            f"{len(episode.turn_rewards)}: credit for turns needs one for each. "
            "Use train.algorithm.credit=episode for this environment or record."
        )
    mistakes = episode.turn_mistakes or (0,) * spans
    rewards = [
        reward - algorithm.mistake_penalty * n
        for reward, n in zip(episode.turn_rewards, mistakes, strict=True)
    ]
    if rewards:
        rewards[-1] += overlong(episode, algorithm)
    return returns_to_go(torch.tensor(rewards), discount=algorithm.discount)


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
    if trace is None or episode.void:
        return None
    weight = 0.0 if algorithm.mask_truncated and episode.truncated else 1.0
    return Sample(trace.token_ids, trace.loss_mask, trace.logprobs, advantage, weight)
