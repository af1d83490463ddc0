"""Decide by evidence who caused a failure: the model, or the world.

A failure of the model ends the episode with the failure reward. A failure of the world makes it
void. While a call of the episode ran, the model is the default cause, so that no action of a model
voids an episode. In doubt the calls are replayed in a new session: a failure that comes back is a
property of the call. Exceptions of tools are not decided here, because the session goes on and the
model sees them as observations. `RULES` is the whole decision; the docs show it as a table.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from envgym.errors import BoxState, Neighbours, Stage, WorldFailure

Cause = Literal["model", "world"]
Verdict = Literal["model", "world", "replay"]
"""Cause of a failure, or `replay` if a replay must decide."""
Replay = Literal["failed_again", "succeeded", "impossible"]
"""Result of a replay: the last call failed again, it succeeded, or no new session could be opened
or reached the call."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Row of the decision table. A failure matches if it agrees with every field that is set."""

    failure: str
    """Description of the failure for the docs."""
    verdict: Verdict
    because: str
    """Reason for the docs."""
    kinds: frozenset[str] = frozenset()
    """Kinds of failure; empty for all."""
    stages: frozenset[Stage] = frozenset()
    """Stages of the episode; empty for all."""
    box: BoxState | None = None
    neighbours: Neighbours | None = None
    executes_code: bool | None = None
    """Whether tools execute code that the model wrote."""
    replay: Replay | None = None

    def matches(self, failure: WorldFailure, *, executes_code: bool, replay: Replay | None) -> bool:
        """Return whether the rule applies to a failure."""
        return (
            (not self.kinds or failure.kind in self.kinds)
            and (not self.stages or failure.stage in self.stages)
            and self.box in (None, failure.box)
            and self.neighbours in (None, failure.neighbours)
            and self.executes_code in (None, executes_code)
            and self.replay in (None, replay)
        )


def _kinds(*names: str) -> frozenset[str]:
    return frozenset(names)


def _stages(*names: Stage) -> frozenset[Stage]:
    return frozenset(names)


RULES: tuple[Rule, ...] = (
    Rule(
        "A session cannot be opened: no box, no room, no space or memory on the host, an error of "
        "the seed function, a state that differs",
        "world",
        "The model has not acted yet.",
        stages=_stages("open"),
    ),
    Rule(
        "The policy or its server fails",
        "world",
        "No answer of the model reached the environment.",
        stages=_stages("policy"),
    ),
    Rule(
        "A reward part, a judge or envgym's own code raises",
        "world",
        "The code of the author or of envgym is wrong, or its host is out of memory or space.",
        kinds=_kinds("reward_raised", "env_raised", "policy_failed"),
    ),
    Rule(
        "A live server answers no request, also not the one that checks it",
        "world",
        "The server is down for every caller.",
        kinds=_kinds("server_down"),
    ),
    Rule(
        "The box ended before the request was sent",
        "world",
        "No call of this episode was running.",
        box="gone",
    ),
    Rule(
        "The box ended or was silent while the state was read or tested",
        "world",
        "No call of this episode was running.",
        stages=_stages("diff", "score"),
        box="lost",
    ),
    Rule(
        "The box had too little processor time to read the final state",
        "world",
        "The processes of the session had ended.",
        kinds=_kinds("overloaded"),
    ),
    Rule(
        "The session's process ended between two calls; the model runs its own code",
        "model",
        "Only processes that its code left behind can reach that process.",
        kinds=_kinds("session_gone"),
        executes_code=True,
    ),
    Rule(
        "The session's process ended between two calls",
        "world",
        "No call of this episode was running.",
        kinds=_kinds("session_gone"),
    ),
    Rule(
        "The session fails, the box works; the model runs its own code: exit, kill, memory, a lost "
        "database, a call that does not stop",
        "model",
        "The code of the model is the default cause.",
        box="alive",
        executes_code=True,
    ),
    Rule(
        "A call cannot be stopped at its time limit; other sessions of the box got answers",
        "model",
        "The box and the host worked.",
        kinds=_kinds("timeout"),
        stages=_stages("call"),
        neighbours="moved",
    ),
    Rule(
        "Any other failure during a call, or of the state that the calls made; the replay fails at "
        "the same place",
        "model",
        "The failure is a property of the calls.",
        replay="failed_again",
    ),
    Rule(
        "The same; no new session can be opened, or an earlier call fails",
        "world",
        "The box, the engine or the server does not work.",
        replay="impossible",
    ),
    Rule(
        "The same; the replay works, and the model runs its own code",
        "model",
        "Its code can fail once and work the next time.",
        executes_code=True,
        replay="succeeded",
    ),
    Rule(
        "The same; the replay works",
        "world",
        "The same calls do not cause the failure.",
        replay="succeeded",
    ),
    Rule(
        "The same; not replayed yet",
        "replay",
        "The evidence does not suffice.",
    ),
)
"""The decision table. The first rule that matches decides."""


def decide(failure: WorldFailure, *, executes_code: bool, replay: Replay | None = None) -> Verdict:
    """Return the cause of a failure, or `replay` if a replay must decide.

    Args:
        failure: Failure of a running episode.
        executes_code: Whether tools execute code that the model wrote.
        replay: Result of the replay. None if there was none.

    >>> from envgym.errors import WorldFailure
    >>> decide(WorldFailure("session_ended", "exit status 3", stage="call"), executes_code=True)
    'model'
    >>> decide(WorldFailure("sandbox_lost", "no box", stage="open"), executes_code=True)
    'world'
    """
    return find_rule(failure, executes_code=executes_code, replay=replay).verdict


def find_rule(failure: WorldFailure, *, executes_code: bool, replay: Replay | None = None) -> Rule:
    """Return the rule that decides a failure. The arguments are those of `decide`."""
    return next(
        rule for rule in RULES if rule.matches(failure, executes_code=executes_code, replay=replay)
    )


def to_markdown(rules: Iterable[Rule] = RULES) -> str:
    """Return the decision table for the docs."""
    ends = {"model": "failure reward", "world": "void", "replay": "replay decides"}
    lines = ["| failure | end | reason |", "|---|---|---|"]
    lines += [f"| {rule.failure}. | {ends[rule.verdict]} | {rule.because} |" for rule in rules]
    return "\n".join(lines) + "\n"
