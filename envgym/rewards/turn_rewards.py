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
        so_far: Function that returns the evidence of the episode up to now. It is called at the
            start and after each turn, but only if a part is evaluated before the end.
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
        self._dialects: dict[str, int] = {}
        """Counts of dialects up to the previous turn."""
        self._paid: list[float] = []
        """Reward of each turn so far."""

    def turn(self) -> float:
        """Return the reward of the turn just taken. Call it only if the episode continues."""
        reward = self._turn_reward() if self._values or self._potentials else 0.0
        self._paid.append(reward)
        return reward

    def _turn_reward(self) -> float:
        self._evaluate(self._so_far())
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
        self._evaluate(evidence)
        score = self.rubric.score(evidence, self._terms())
        return score.reward - sum(self._paid), score

    def fail(self) -> tuple[float, Score]:
        """Return the same as `end` if the last turn cannot be evaluated.

        The reward of the episode is the failure reward, or the sum of its turns if that is lower.
        """
        for values in self._values.values():
            values.append(None)
        for potentials in self._potentials.values():
            potentials.append(0.0)
        terms = self._terms() | self.rubric.failure_terms(step=self.step)
        score = Score(terms | {PENALTY: self.rubric.penalty(terms, step=self.step)}, success=False)
        return score.reward - sum(self._paid), score

    def abort(self, *, in_turn: bool) -> tuple[float, Score]:
        """Return the last reward and the score of an episode that the trainer aborts.

        The last reward lowers the sum of the turns to the failure reward. It is 0 if the sum is
        lower already.

        Args:
            in_turn: Whether the trainer stopped within a turn, which then gets the last reward.
        """
        terms = self.rubric.failure_terms(step=self.step)
        failure = total(terms)
        last = min(0.0, failure - sum(self._paid))
        # All terms must add up to the rewards of the turns, and the failure terms count at the
        # last turn. So the penalty is the remainder of each turn.
        remainder = [*self._paid, 0.0] if in_turn else list(self._paid)
        if remainder:
            remainder[-1] += last
            remainder[-1] -= failure
        penalty = Term(1.0, math.fsum(remainder), 1.0, by_turn=tuple(remainder))
        return last, Score(terms | {PENALTY: penalty}, success=False)

    def _evaluate(self, evidence: Evidence) -> None:
        """Append the values of the last turn, and the potentials after it."""
        turn = self._last_turn(evidence)
        for name, values in self._values.items():
            part = self.rubric.parts[name]
            if part.rule.per == "turn":
                values.append(value_of(name, part.function, turn))
            else:
                values.append(_sum_of_calls(name, part, turn))
        for name, potentials in self._potentials.items():
            potentials.append(_potential(name, self.rubric.parts[name], evidence))

    def _last_turn(self, evidence: Evidence) -> Evidence:
        """Return the evidence of the last turn.

        Its changed rows are those of the whole episode up to this turn.
        """
        calls = tuple(record for record in evidence.calls if record.turn == evidence.turns)
        dialects = {
            name: count - self._dialects.get(name, 0) for name, count in evidence.dialects.items()
        }
        self._dialects = evidence.dialects
        return replace(
            evidence,
            calls=calls,
            assistant_messages=evidence.assistant_messages[-1:],
            turns=1,
            dialects=dialects,
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


def _sum_of_calls(name: str, part: RewardPart, turn: Evidence) -> float | None:
    """Return the sum of a part's values over the calls of one turn.

    Return None if the part applies to none of them.
    """
    calls = [replace(turn, calls=(record,), dialects={}) for record in turn.calls]
    values = [value for call in calls if (value := value_of(name, part.function, call)) is not None]
    return math.fsum(values) if values else None


def _potential(name: str, part: RewardPart, evidence: Evidence) -> float:
    """Return the potential of a part; it is 0 if the part does not apply yet."""
    return value_of(name, part.function, evidence) or 0.0
