"""How the parts of a reward make one number, so that it can always be taken apart again.

Each part becomes a `Term`: what the part said, what it stands for after range and gate, and its weight at that step. The reward is
the sum of weight x value over the terms, to the last bit. Pure functions; left out: where the values come from (`rubric.py`,
`tally.py`), and what training changes about the weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from envgym.spec.reward import PartSpec, at_step


@dataclass(frozen=True, slots=True)
class Term:
    """One part's share in one episode's reward."""

    raw: float | None
    """What the part said; the sum over turns where it speaks at each; None where it did not apply."""
    value: float | None
    """After range, clip and scale, 0 behind a shut gate; None where it did not apply."""
    weight: float
    """At the training step of the episode."""
    is_open: bool = True
    """False where its gate is shut."""
    by_turn: tuple[float, ...] = ()
    """The value of each turn, for a part that is paid turn by turn; they sum to `value`."""

    @property
    def contribution(self) -> float:
        return 0.0 if self.value is None else self.weight * self.value


Terms = Mapping[str, Term]
FORFEIT = "forfeit"
"""Name of the term by which an episode loses its reward, whatever its parts say."""


def total(terms: Terms) -> float:
    """The reward that the terms make, whatever their order."""
    return math.fsum(term.contribution for term in terms.values())


def turn_rewards(terms: Terms, turns: int) -> tuple[float, ...]:
    """What each turn was paid, (turns,): its own terms, and at the last turn all that is known at the end only."""
    if not turns:
        return ()
    paid = [
        math.fsum(term.weight * term.by_turn[turn] for term in terms.values() if term.by_turn)
        for turn in range(turns)
    ]
    paid[-1] += math.fsum(term.contribution for term in terms.values() if not term.by_turn)
    return tuple(paid)


def placed(part: PartSpec, raw: float, step: int) -> float:
    """A part's value where its range and clip put it."""
    low, high = (at_step(end, step) for end in part.range)
    value = low + (high - low) * raw
    return value if part.clip is None else min(max(value, part.clip[0]), part.clip[1])


def compose(
    parts: Mapping[str, PartSpec], raw: Mapping[str, float | None], *, step: int = 0
) -> dict[str, Term]:
    """The terms of parts that speak once an episode.

    Args:
        parts: of the reward.
        raw: name -> what the part said, at least of every part that is given or that a gate looks at.
        step: of training.
    """
    return {name: _term(part, raw, name, step) for name, part in parts.items()}


def _term(part: PartSpec, raw: Mapping[str, float | None], name: str, step: int) -> Term:
    said = raw[name]
    weight = at_step(part.weight, step)
    if said is None:
        return Term(None, None, weight)
    if part.gate is not None:
        on = raw[part.gate.on]
        if on is None:  # nobody knows whether it is met
            return Term(said, None, weight, is_open=False)
        if on < part.gate.at_least:
            return Term(said, 0.0, weight, is_open=False)
    return Term(said, placed(part, said, step), weight)


def compose_turns(part: PartSpec, raw: Sequence[float | None], *, step: int = 0) -> Term:
    """The term of a part that speaks at each turn; a turn of which it says nothing is paid nothing."""
    values = tuple(0.0 if said is None else placed(part, said, step) for said in raw)
    spoke = [said for said in raw if said is not None]
    raw_sum, value = (math.fsum(spoke), math.fsum(values)) if spoke else (None, None)
    return Term(raw_sum, value, at_step(part.weight, step), by_turn=values)


def shaping(potentials: Sequence[float], *, discount: float) -> tuple[float, ...]:
    """What potential-based shaping pays each turn: discount x potential after - potential before; the end's potential is 0.

    It changes no optimum: over an episode it sums (discounted) to minus the potential of the start.

    Args: potentials (K + 1,) of the start and after each of the K turns; the last one is not looked at.
    Returns: (K,).
    Source: Ng, Harada and Russell, Policy invariance under reward transformations, ICML 1999, theorem 1; the end's potential:
        Grzes, AAMAS 2017, sec. 3.
    """
    after = [*potentials[1:-1], 0.0] if len(potentials) > 1 else []
    return tuple(discount * new - old for old, new in zip(potentials, after, strict=False))


def given_up(
    parts: Mapping[str, PartSpec], worst: Mapping[str, float], *, step: int = 0
) -> dict[str, Term]:
    """What an episode gets that is given up: every part worth having at its worst, and no reward for that.

    So nobody runs out of room, or breaks the rules, to escape a range that begins below 0.

    Args: worst: name -> the least that the part says.
    """
    worth = {
        name: at_step(part.weight, step) for name, part in parts.items() if part.per == "episode"
    }
    return {
        name: Term(
            worst[name],
            min(0.0, placed(parts[name], worst[name], step)),
            weight,
            is_open=parts[name].gate is None,
        )
        for name, weight in worth.items()
        if weight > 0
    }
