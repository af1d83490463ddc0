"""Reward terms: combine the parts of a reward into one number that can be taken apart again.

Each part becomes a `Term` with its raw value, its value after range, clip and gate, and its weight
at that training step. The reward is the exact sum of weight x value over the terms. All functions
are pure. The parts are evaluated by `Rubric`; the trainer may change the weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from envgym.spec.reward import PartSpec, at_step


@dataclass(frozen=True, slots=True)
class Term:
    """Contribution of one part to the reward of one episode."""

    raw: float | None
    """Value that the part returned, summed over turns if it is evaluated per turn. None if the part
    does not apply."""
    value: float | None
    """Value after range, clip and scale; 0 if the gate is closed. None if the part does not apply.
    """
    weight: float
    """Weight at the training step of the episode."""
    gate_is_open: bool = True
    """Whether the gate is open. True if the part has no gate."""
    by_turn: tuple[float, ...] = ()
    """Value of each turn, for a part that is paid per turn. The values sum to `value`."""

    @property
    def contribution(self) -> float:
        return 0.0 if self.value is None else self.weight * self.value


Terms = Mapping[str, Term]
PENALTY = "penalty"
"""Name of the penalty term that lowers the reward of an episode to the failure reward."""


def total(terms: Terms) -> float:
    """Return the reward: the exact sum of the contributions, independent of their order."""
    return math.fsum(term.contribution for term in terms.values())


def turn_rewards(terms: Terms, turns: int) -> tuple[float, ...]:
    """Return the reward of each turn, shape (turns,).

    The last turn includes the contributions of all parts that are evaluated at the end only.
    """
    if not turns:
        return ()
    paid = [
        math.fsum(term.weight * term.by_turn[turn] for term in terms.values() if term.by_turn)
        for turn in range(turns)
    ]
    paid[-1] += math.fsum(term.contribution for term in terms.values() if not term.by_turn)
    return tuple(paid)


def placed(part: PartSpec, raw: float, step: int) -> float:
    """Return the part's value after range and clip: clip(low + (high - low) * raw)."""
    low, high = (at_step(end, step) for end in part.range)
    value = low + (high - low) * raw
    return value if part.clip is None else min(max(value, part.clip[0]), part.clip[1])


def compose(
    parts: Mapping[str, PartSpec], raw: Mapping[str, float | None], *, step: int = 0
) -> dict[str, Term]:
    """Return the terms of parts that are evaluated once per episode.

    Args:
        parts: Rules of the parts, by name.
        raw: Raw value of each part in `parts` and of each part that a gate refers to.
        step: Training step, used by schedules.
    """
    return {name: _term(part, raw, name, step) for name, part in parts.items()}


def _term(part: PartSpec, raw: Mapping[str, float | None], name: str, step: int) -> Term:
    value = raw[name]
    weight = at_step(part.weight, step)
    if value is None:
        return Term(None, None, weight)
    if part.gate is not None:
        on = raw[part.gate.on]
        if on is None:  # without a value the gate's condition is unknown
            return Term(value, None, weight, gate_is_open=False)
        if on < part.gate.at_least:
            return Term(value, 0.0, weight, gate_is_open=False)
    return Term(value, placed(part, value, step), weight)


def compose_turns(part: PartSpec, raw: Sequence[float | None], *, step: int = 0) -> Term:
    """Return the term of a part that is evaluated per turn.

    A turn to which the part does not apply gets 0.
    """
    values = tuple(0.0 if each is None else placed(part, each, step) for each in raw)
    applied = [each for each in raw if each is not None]
    raw_sum, value = (math.fsum(applied), math.fsum(values)) if applied else (None, None)
    return Term(raw_sum, value, at_step(part.weight, step), by_turn=values)


def shaping(potentials: Sequence[float], *, discount: float) -> tuple[float, ...]:
    """Return the rewards of potential-based shaping.

    A turn gets discount x potential after it - potential before it; the final potential is 0. The
    discounted sum over an episode is minus the potential of the start, so the optimal policy does
    not change.

    Args:
        potentials: Potentials at the start and after each of the K turns, shape (K + 1,). The last
            one is ignored.
        discount: Discount factor of the potential.

    Returns:
        Rewards, shape (K,).

    References:
        Ng, Harada and Russell, Policy invariance under reward transformations, ICML 1999, theorem
        1. For the final potential: Grzes, AAMAS 2017, section 3.
    """
    after = [*potentials[1:-1], 0.0] if len(potentials) > 1 else []
    return tuple(discount * new - old for old, new in zip(potentials, after, strict=False))


def failure_terms(
    parts: Mapping[str, PartSpec], minimum: Mapping[str, float], *, step: int = 0
) -> dict[str, Term]:
    """Return the reward terms of an aborted episode.

    Each part with a positive weight gets its minimum, capped at 0. Otherwise an episode could avoid
    a negative range by filling the context or by changing a forbidden table.

    Args:
        parts: Rules of the parts, by name.
        minimum: Minimum raw value of each part.
        step: Training step, used by schedules.
    """
    worth = {
        name: at_step(part.weight, step) for name, part in parts.items() if part.per == "episode"
    }
    return {
        name: Term(
            minimum[name],
            min(0.0, placed(parts[name], minimum[name], step)),
            weight,
            gate_is_open=parts[name].gate is None,
        )
        for name, weight in worth.items()
        if weight > 0
    }
