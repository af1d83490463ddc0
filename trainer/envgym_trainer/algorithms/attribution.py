"""Attribute each advantage to the reward terms.

An advantage is a difference to the group or batch mean, divided by a standard deviation. The
difference is linear in the reward, so a term's share is its own difference divided by the same
number. The part of an advantage that is not linear is reported as `rest`. Each advantage declares
its baseline and whether it is linear; see `advantages/__init__.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from envgym.episode import Episode
from envgym.terms import Term, turn_rewards
from envgym_trainer.algorithms.advantages import Advantage, AdvantageInputs
from envgym_trainer.algorithms.credit import advantages
from envgym_trainer.algorithms.episode_tables import (
    REWARD,
    Groups,
    advantage_inputs,
    episode_table,
    is_valid,
    overlong,
    turn_table,
    with_overlong,
)
from envgym_trainer.algorithms.registry import find_advantage
from envgym_trainer.algorithms.turn_tokens import turn_spans
from envgym_trainer.config.algorithm import AlgorithmConfig

REST = "rest"
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
    inputs = advantage_inputs(groups, algorithm, dtype=torch.float64)
    whole = _by_episode(groups, advantages(groups, inputs, algorithm))  # (P, G)
    shares = _shares(groups, inputs, whole, algorithm)
    rest = whole - sum(shares.values(), torch.zeros_like(whole))
    largest = whole[inputs.valid].abs().max().clamp(min=1) if inputs.valid.any() else torch.inf
    if (rest[inputs.valid].abs() > NOISE * largest).any():
        shares[REST] = rest
    return [
        [
            dataclasses.replace(
                episode,
                advantage=float(whole[p, g]),
                advantage_parts={name: float(share[p, g]) for name, share in shares.items()},
            )
            if inputs.valid[p, g]
            else episode
            for g, episode in enumerate(group)
        ]
        for p, group in enumerate(groups)
    ]


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
    groups: Groups, inputs: AdvantageInputs, whole: Tensor, algorithm: AlgorithmConfig
) -> dict[str, Tensor]:
    """Return each term's share of the advantages, shape (P, G), without the rest."""
    rule = find_advantage(algorithm.advantage.name)
    options = algorithm.advantage.options
    if rule.part_shares:
        parts = zip(inputs.part_names, rule.part_shares(inputs, **options), strict=True)
        return {name: share for name, share in parts if share.any()}
    linear = whole
    by_turn = rule.is_linear and rule(inputs, **options).ndim == 3
    if rule.linear_part:
        linear = rule.linear_part(inputs, **options)
    if by_turn:
        differences = _differences_of_turns(groups, inputs, rule, algorithm)
    else:
        terms = _contributions(groups, algorithm)
        differences = {
            name: _centered(table, inputs.valid, over_batch=rule.baseline == "batch")
            for name, table in terms.items()
        }
    return _scaled(differences, linear, per_group=rule.baseline == "group")


def _contributions(groups: Groups, algorithm: AlgorithmConfig) -> dict[str, Tensor]:
    """Return the contribution of each term, shape (P, G). They add up to the rewards."""

    def table(name: str) -> Tensor:
        def contribution(episode: Episode) -> float:
            term = _terms_of(episode).get(name)
            return term.contribution if term else 0.0

        return episode_table(groups, contribution, dtype=torch.float64)

    tables = {name: table(name) for name in _contributing(groups)}
    if algorithm.overlong_penalty:
        tables[OVERLONG] = episode_table(
            groups, lambda episode: overlong(episode, algorithm), dtype=torch.float64
        )
    return tables


def _contributing(groups: Groups) -> list[str]:
    """Return the names of terms that contribute to any reward, sorted."""
    return sorted(
        {
            name
            for group in groups
            for episode in group
            for name, term in _terms_of(episode).items()
            if term.contribution
        }
    )


def _terms_of(episode: Episode) -> Mapping[str, Term]:
    """Return the reward terms. Without parts, the reward is the only term."""
    whole = Term(episode.reward, episode.reward, 1.0, by_turn=episode.turn_rewards)
    return episode.reward_terms or {REWARD: whole}


def _centered(values: Tensor, valid: Tensor, *, over_batch: bool) -> Tensor:
    """Return the values minus the mean of their group or of the batch; 0 if not valid."""
    known = values.masked_fill(~valid, 0.0)
    total = known.sum() if over_batch else known.sum(-1, keepdim=True)
    count = valid.sum() if over_batch else valid.sum(-1, keepdim=True)
    return (known - total / count.clamp(min=1)).masked_fill(~valid, 0.0)


def _differences_of_turns(
    groups: Groups, inputs: AdvantageInputs, rule: Advantage[...], algorithm: AlgorithmConfig
) -> dict[str, Tensor]:
    """Return, for each term, the unscaled advantages if it were the only term, shape (P, G)."""
    options: dict[str, Any] = algorithm.advantage.options
    if "std" in options:
        options["std"] = "none"
    turns = inputs.turn_rewards.shape[-1]
    no_calls = torch.zeros_like(inputs.invalid_calls)

    def alone(rewards: Tensor, invalid_calls: Tensor) -> Tensor:
        only = dataclasses.replace(inputs, turn_rewards=rewards, invalid_calls=invalid_calls)
        return _by_episode(groups, rule(only, **options))

    found = {
        name: alone(_turn_rewards(groups, name, turns), no_calls) for name in _contributing(groups)
    }
    if algorithm.overlong_penalty:
        penalties = turn_table(
            groups,
            lambda e: with_overlong([0.0] * len(e.turn_rewards), e, algorithm),
            turns,
            dtype=torch.float64,
        )
        found[OVERLONG] = alone(penalties, no_calls)
    if options.get("invalid_call_penalty"):
        found[MISTAKES] = alone(torch.zeros_like(inputs.turn_rewards), inputs.invalid_calls)
    return found


def _turn_rewards(groups: Groups, name: str, turns: int) -> Tensor:
    """Return the reward of each turn if the term is the only one, shape (P, G, K)."""

    def paid(episode: Episode) -> tuple[float, ...]:
        term = _terms_of(episode).get(name)
        return turn_rewards({name: term} if term else {}, len(episode.turn_rewards))

    return turn_table(groups, paid, turns, dtype=torch.float64)


def _by_episode(groups: Groups, values: Tensor) -> Tensor:
    """Return the advantage of each episode, shape (P, G): the mean over its sampled tokens."""
    if values.ndim == 2:
        return values
    table = torch.zeros(values.shape[:2], dtype=torch.float64)
    for p, group in enumerate(groups):
        for g, episode in enumerate(group):
            if is_valid(episode) and episode.tokens is not None:
                spans = turn_spans(torch.tensor(episode.tokens.loss_mask))
                lengths = torch.tensor([end - start for start, end in spans], dtype=torch.float64)
                if len(lengths):
                    weighted = lengths * values[p, g, : len(lengths)]
                    table[p, g] = weighted.sum() / lengths.sum()
    return table


def _scaled(
    differences: Mapping[str, Tensor], advantages: Tensor, *, per_group: bool
) -> dict[str, Tensor]:
    """Scale the differences to add up to the advantages, by one factor per group or batch."""
    whole = sum(differences.values(), torch.zeros_like(advantages))
    product = advantages * whole
    square = whole.square()
    product = product.sum(-1, keepdim=True) if per_group else product.sum()
    square = square.sum(-1, keepdim=True) if per_group else square.sum()
    scale = torch.where(
        square > 0,
        product / square.clamp(min=torch.finfo(square.dtype).tiny),
        torch.zeros_like(square),
    )
    return {name: scale * table for name, table in differences.items()}
