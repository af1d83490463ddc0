"""The rewards of one episode as they come: of each turn after that turn, of the whole at its end."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from envgym.rewards.rubric import Evidence, RewardPart, Rubric, Score, value_of
from envgym.spec.reward import PartSpec, at_step
from envgym.terms import FORFEIT, Term, compose_turns, placed, shaping


class Tally:
    """Asks the parts of a rubric in time, and knows what was paid so far.

    Args:
        so_far: gives what the episode has left up to now; asked for at the start and after each turn, only where a part wants it.
        step: of training, for schedules.
    Raises: WorldFailure where a part raises; so do all methods.
    """

    def __init__(self, rubric: Rubric, so_far: Callable[[], Evidence], *, step: int = 0):
        self.rubric = rubric
        self.step = step
        self._so_far = so_far
        self._said: dict[str, list[float | None]] = {
            name: [] for name in rubric.named("turn", "call")
        }
        self._potentials = {
            name: [_potential(name, part, so_far())]
            for name, part in rubric.named("potential").items()
        }
        self._modes: dict[str, int] = {}
        self._paid = 0.0

    def turn(self) -> float:
        """What the turn that was just taken is paid, where the episode goes on."""
        if not self._said and not self._potentials:
            return 0.0
        self._note(self._so_far())
        terms = [
            compose_turns(self._rule(name), [said[-1]], step=self.step)
            for name, said in self._said.items()
        ]
        rewards = [term.contribution for term in terms]
        for name, potentials in self._potentials.items():
            before, after = (placed(self._rule(name), each, self.step) for each in potentials[-2:])
            rewards.append(self._weight(name) * (self._rule(name).discount * after - before))
        self._paid += math.fsum(rewards)
        return math.fsum(rewards)

    def end(self, evidence: Evidence) -> tuple[float, Score]:
        """What the last turn is paid, and the whole, which includes it."""
        self._note(evidence)
        score = self.rubric.score(evidence, self._terms())
        return score.reward - self._paid, score

    def give_up(self) -> tuple[float, Score]:
        """The same for an episode that broke off by its own doing: whatever it may have earned is forfeit."""
        for said in self._said.values():
            said.append(None)
        for potentials in self._potentials.values():
            potentials.append(0.0)
        terms = self._terms() | self.rubric.given_up(step=self.step)
        score = Score(terms | {FORFEIT: self.rubric.forfeit(terms, step=self.step)}, success=False)
        return score.reward - self._paid, score

    def _note(self, evidence: Evidence) -> None:
        turn = self._alone(evidence)
        for name, said in self._said.items():
            part = self.rubric.parts[name]
            said.append(
                value_of(name, part.function, turn)
                if part.rule.per == "turn"
                else _of_calls(name, part, turn)
            )
        for name, potentials in self._potentials.items():
            potentials.append(_potential(name, self.rubric.parts[name], evidence))

    def _alone(self, evidence: Evidence) -> Evidence:
        """The last turn by itself: its text, calls and dialects; of the state, all that has changed by then."""
        calls = tuple(record for record in evidence.calls if record.turn == evidence.turns)
        modes = {
            mode: count - self._modes.get(mode, 0) for mode, count in evidence.parse_modes.items()
        }
        self._modes = evidence.parse_modes
        return replace(evidence, calls=calls, said=evidence.said[-1:], turns=1, parse_modes=modes)

    def _terms(self) -> dict[str, Term]:
        terms = {
            name: compose_turns(self._rule(name), said, step=self.step)
            for name, said in self._said.items()
        }
        for name, potentials in self._potentials.items():
            values = [placed(self._rule(name), each, self.step) for each in potentials]
            by_turn = shaping(values, discount=self._rule(name).discount)
            terms[name] = Term(
                potentials[-1], math.fsum(by_turn), self._weight(name), by_turn=by_turn
            )
        return terms

    def _rule(self, name: str) -> PartSpec:
        return self.rubric.parts[name].rule

    def _weight(self, name: str) -> float:
        return at_step(self._rule(name).weight, self.step)


def _of_calls(name: str, part: RewardPart, turn: Evidence) -> float | None:
    """The sum of what a part says of each call of a turn by itself; None where there was none, or it says nothing."""
    alone = [replace(turn, calls=(record,), parse_modes={}) for record in turn.calls]
    said = [value for each in alone if (value := value_of(name, part.function, each)) is not None]
    return math.fsum(said) if said else None


def _potential(name: str, part: RewardPart, evidence: Evidence) -> float:
    """A part that says nothing yet has a potential of 0."""
    return value_of(name, part.function, evidence) or 0.0
