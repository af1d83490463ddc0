"""Attribute each advantage to the reward terms.

An advantage is a difference to the group or batch mean, divided by a standard deviation. The
difference is linear in the reward, so a term's share is its own difference divided by the same
number. Parts that are not linear (GDPO's whitening, GiGPO's step groups) are reported as `rest`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from envgym.episode import Episode
from envgym.terms import PENALTY, Term, turn_rewards
from envgym_trainer.algorithms.advantages.group import group_advantages
from envgym_trainer.algorithms.advantages.turns import turn_spans
from envgym_trainer.algorithms.credit import (
    Groups,
    episode_advantages,
    episode_rewards,
    overlong,
    part_table,
    turn_values,
    weighted_names,
)
from envgym_trainer.config.algorithm import AlgorithmConfig

REST = "rest"
REWARD = "reward"
OVERLONG = "overlong"
MISTAKES = "mistakes"
NOISE = 1e-6
"""Threshold below which a rest counts as rounding error, in units of advantage."""


def explained(groups: Groups, algorithm: AlgorithmConfig) -> list[list[Episode]]:
    """Return the episodes with `advantage` and `advantage_parts`, which add up to it.

    Void episodes are returned unchanged.

    Args:
        groups: Episodes of one step, as passed to `samples_by_group`.
        algorithm: Settings. If turns have different advantages, the mean over tokens is attributed.
    """
    if not groups:
        return []
    rewards = episode_rewards(groups, algorithm, dtype=torch.float64)  # (P, G)
    valid = ~rewards.isnan()
    advantages, shares = _shares(groups, algorithm, rewards, valid)
    rest = advantages - sum(shares.values(), torch.zeros_like(advantages))
    if valid.any() and rest[valid].abs().max() > NOISE * advantages[valid].abs().max().clamp(min=1):
        shares[REST] = rest
    return [
        [
            _with(
                episode,
                float(advantages[p, g]),
                {name: float(share[p, g]) for name, share in shares.items()},
            )
            if valid[p, g]
            else episode
            for g, episode in enumerate(group)
        ]
        for p, group in enumerate(groups)
    ]


def _with(episode: Episode, advantage: float, parts: dict[str, float]) -> Episode:
    return dataclasses.replace(episode, advantage=advantage, advantage_parts=parts)


def part_metrics(groups: Groups) -> dict[str, float]:
    """Return `advantage/NAME`: mean absolute share of each term, as a fraction of all terms.

    The result is empty if all advantages are 0.
    """
    parts = [
        episode.advantage_parts
        for group in groups
        for episode in group
        if episode.advantage is not None
    ]
    names = sorted({name for each in parts for name in each})
    moved = {name: sum(abs(each.get(name, 0.0)) for each in parts) for name in names}
    total = sum(moved.values())
    return {f"advantage/{name}": value / total for name, value in moved.items()} if total else {}


def _shares(
    groups: Groups, algorithm: AlgorithmConfig, rewards: Tensor, valid: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the advantages, shape (P, G), and each term's share of them, without the rest."""
    if algorithm.advantage.name == "turns":
        whole = _token_mean(groups, turn_values(groups, algorithm, rewards, valid))
        return whole, _scaled(
            _differences_of_turns(groups, algorithm, rewards, valid), whole, per_group=True
        )
    advantages = episode_advantages(groups, algorithm, rewards, valid)
    if algorithm.advantage.name == "gdpo":
        table, weights = part_table(groups, rewards)
        names = weighted_names(groups)
        names.append(PENALTY if names else REWARD)
        alone = lambda part: group_advantages(
            part, valid=~part.isnan(), ddof=algorithm.advantage.ddof, eps=algorithm.advantage.eps
        )
        each = {
            name: weight * alone(part)
            for name, weight, part in zip(names, weights, table, strict=True)
        }
        return advantages, {name: share for name, share in each.items() if share.any()}
    over_batch = algorithm.advantage.name == "reinforce_pp"
    terms = _terms(groups, algorithm, rewards)
    differences = {
        name: _centered(table, valid, over_batch=over_batch) for name, table in terms.items()
    }
    shares = _scaled(differences, advantages, per_group=not over_batch)
    if algorithm.advantage.name == "gigpo":
        advantages = _token_mean(groups, turn_values(groups, algorithm, rewards, valid))
    return advantages, shares


def _terms(groups: Groups, algorithm: AlgorithmConfig, rewards: Tensor) -> dict[str, Tensor]:
    """Return the contribution of each term, shape (P, G). They add up to the rewards."""
    names = {
        name
        for group in groups
        for episode in group
        for name, term in _terms_of(episode).items()
        if term.contribution
    }
    tables = {
        name: torch.zeros_like(rewards)
        for name in [*sorted(names), *([OVERLONG] if algorithm.overlong_penalty else [])]
    }
    for p, group in enumerate(groups):
        for g, episode in enumerate(group):
            for name, term in _terms_of(episode).items():
                if name in tables:
                    tables[name][p, g] = term.contribution
            if algorithm.overlong_penalty:
                tables[OVERLONG][p, g] = overlong(episode, algorithm)
    return tables


def _terms_of(episode: Episode) -> Mapping[str, Term]:
    """Return the reward terms. Without parts, the reward is the only term."""
    whole = Term(episode.reward, episode.reward, 1.0, by_turn=episode.turn_rewards)
    return episode.reward_terms or {REWARD: whole}


def _centered(values: Tensor, valid: Tensor, *, over_batch: bool) -> Tensor:
    """Return the values minus the mean of their group or of the batch; 0 if not valid."""
    known = values.masked_fill(~valid, 0.0)
    total, count = (
        (known.sum(), valid.sum())
        if over_batch
        else (known.sum(-1, keepdim=True), valid.sum(-1, keepdim=True))
    )
    return (known - total / count.clamp(min=1)).masked_fill(~valid, 0.0)


def _differences_of_turns(
    groups: Groups, algorithm: AlgorithmConfig, rewards: Tensor, valid: Tensor
) -> dict[str, Tensor]:
    """Return, for each term, the unscaled advantages if it were the only term, shape (P, G)."""
    penalty = algorithm.advantage.invalid_call_penalty
    advantage = algorithm.advantage.model_copy(update={"std": "none", "invalid_call_penalty": 0.0})
    plain = algorithm.model_copy(update={"advantage": advantage, "overlong_penalty": None})
    names = {
        name
        for group in groups
        for episode in group
        for name, term in _terms_of(episode).items()
        if term.contribution
    }
    alone = {name: (plain, name) for name in sorted(names)}
    if algorithm.overlong_penalty:
        alone[OVERLONG] = (
            plain.model_copy(update={"overlong_penalty": algorithm.overlong_penalty}),
            "",
        )
    if penalty:
        penalized = advantage.model_copy(update={"invalid_call_penalty": penalty})
        alone[MISTAKES] = (plain.model_copy(update={"advantage": penalized}), "")
    found = {}
    for name, (rule, term) in alone.items():
        reduced = [[_only(episode, term) for episode in group] for group in groups]
        found[name] = _token_mean(groups, turn_values(reduced, rule, rewards, valid))
    return found


def _only(episode: Episode, name: str) -> Episode:
    """Return the episode with the reward of a single term."""
    term = _terms_of(episode).get(name)
    paid = turn_rewards({name: term} if term else {}, len(episode.turn_rewards))
    return dataclasses.replace(episode, reward=math.fsum(paid), turn_rewards=paid)


def _token_mean(groups: Groups, values: Sequence[Sequence[Tensor]]) -> Tensor:
    """Return the mean of turn values over sampled tokens, shape (P, G); 0 without tokens."""
    table = torch.zeros(len(groups), max(len(group) for group in groups), dtype=torch.float64)
    for p, group in enumerate(groups):
        for g, episode in enumerate(group):
            if len(values[p][g]) and episode.tokens is not None:
                spans = turn_spans(torch.tensor(episode.tokens.loss_mask))
                lengths = torch.tensor([end - start for start, end in spans], dtype=torch.float64)
                table[p, g] = (lengths * values[p][g]).sum() / lengths.sum()
    return table


def _scaled(
    differences: Mapping[str, Tensor], advantages: Tensor, *, per_group: bool
) -> dict[str, Tensor]:
    """Scale the differences to add up to the advantages, by one factor per group or batch."""
    whole = sum(differences.values(), torch.zeros_like(advantages))
    product = advantages * whole
    square = whole.square()
    product, square = (
        table.sum(-1, keepdim=True) if per_group else table.sum() for table in (product, square)
    )
    scale = torch.where(
        square > 0,
        product / square.clamp(min=torch.finfo(square.dtype).tiny),
        torch.zeros_like(square),
    )
    return {name: scale * table for name, table in differences.items()}
