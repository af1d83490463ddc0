"""Per-turn and end-of-episode rewards of one episode."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from envgym.rewards.evidence import Evidence
from envgym.rewards.rubric import RewardPart, Rubric, Score, value_of
from envgym.spec.reward import PartSpec, at_step
from envgym.terms import PENALTY, Term, compose_turns, placed, shaping, total


class TurnRewards:
    """Compute the rewards of one episode turn by turn and keep their sum.

    Args:
        rubric: Parts of the reward.
        so_far: Return the evidence of the episode up to now. Called at the start and after each
            turn, but only if a part is evaluated before the end.
        step: Training step, used by schedules.

    Raises:
        WorldFailure: If a part raises or returns no finite number. All methods raise it too.
    """

    def __init__(self, rubric: Rubric, so_far: Callable[[], Evidence], *, step: int = 0):
        self.rubric = rubric
        self.step = step
        self._so_far = so_far
        self._values: dict[str, list[float | None]] = {
            name: [] for name in rubric.named("turn", "call")
        }
        self._potentials = {
            name: [_potential(name, part, so_far())]
            for name, part in rubric.named("potential").items()
        }
        self._modes: dict[str, int] = {}
        self._paid: list[float] = []
        self._total = 0.0

    def turn(self) -> float:
        """Return the reward of the turn just taken, if the episode continues."""
        reward = self._of_turn() if self._values or self._potentials else 0.0
        self._paid.append(reward)
        self._total += reward
        return reward

    def _of_turn(self) -> float:
        self._note(self._so_far())
        terms = [
            compose_turns(self._rule(name), [values[-1]], step=self.step)
            for name, values in self._values.items()
        ]
        rewards = [term.contribution for term in terms]
        for name, potentials in self._potentials.items():
            before, after = (placed(self._rule(name), each, self.step) for each in potentials[-2:])
            rewards.append(self._weight(name) * (self._rule(name).discount * after - before))
        return math.fsum(rewards)

    def end(self, evidence: Evidence) -> tuple[float, Score]:
        """Return the reward of the last turn and the score of the whole episode."""
        self._note(evidence)
        score = self.rubric.score(evidence, self._terms())
        return score.reward - self._total, score

    def fail(self) -> tuple[float, Score]:
        """Return the same as `end` for a last turn that cannot be evaluated.

        The episode gets the failure reward, or less if its turns were paid less.
        """
        for values in self._values.values():
            values.append(None)
        for potentials in self._potentials.values():
            potentials.append(0.0)
        terms = self._terms() | self.rubric.failure_terms(step=self.step)
        score = Score(terms | {PENALTY: self.rubric.penalty(terms, step=self.step)}, success=False)
        return score.reward - self._total, score

    def abort(self, *, in_turn: bool) -> tuple[float, Score]:
        """Return the last reward and the score of an episode that the trainer aborts.

        The last reward lowers the episode to the failure reward; it is 0 if the turns were paid
        less. The rewards already paid become part of the penalty term, at their turns.

        Args:
            in_turn: Whether the trainer stopped within a turn, which then gets the last reward.
        """
        terms = self.rubric.failure_terms(step=self.step)
        failure = total(terms)
        last = min(0.0, failure - self._total)
        paid = [*self._paid, 0.0] if in_turn else list(self._paid)
        if paid:
            paid[-1] += last
            paid[-1] -= failure
        penalty = Term(1.0, math.fsum(paid), 1.0, by_turn=tuple(paid))
        return last, Score(terms | {PENALTY: penalty}, success=False)

    def _note(self, evidence: Evidence) -> None:
        turn = self._alone(evidence)
        for name, values in self._values.items():
            part = self.rubric.parts[name]
            values.append(
                value_of(name, part.function, turn)
                if part.rule.per == "turn"
                else _of_calls(name, part, turn)
            )
        for name, potentials in self._potentials.items():
            potentials.append(_potential(name, self.rubric.parts[name], evidence))

    def _alone(self, evidence: Evidence) -> Evidence:
        """Return the evidence of the last turn alone.

        Its changed rows are all changes of the episode up to this turn.
        """
        calls = tuple(record for record in evidence.calls if record.turn == evidence.turns)
        modes = {
            mode: count - self._modes.get(mode, 0) for mode, count in evidence.dialects.items()
        }
        self._modes = evidence.dialects
        return replace(
            evidence,
            calls=calls,
            assistant_messages=evidence.assistant_messages[-1:],
            turns=1,
            dialects=modes,
        )

    def _terms(self) -> dict[str, Term]:
        terms = {
            name: compose_turns(self._rule(name), values, step=self.step)
            for name, values in self._values.items()
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
    """Return the sum of a part's values over the calls of one turn.

    Return None if the part applies to no call.
    """
    alone = [replace(turn, calls=(record,), dialects={}) for record in turn.calls]
    values = [value for each in alone if (value := value_of(name, part.function, each)) is not None]
    return math.fsum(values) if values else None


def _potential(name: str, part: RewardPart, evidence: Evidence) -> float:
    """Return the potential of a part; it is 0 if the part does not apply yet."""
    return value_of(name, part.function, evidence) or 0.0
