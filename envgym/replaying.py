"""Judge a failure of a running episode, with a replay of its calls if the evidence is in doubt.

`causes.py` has the decision table. A replay makes the same calls in a new session of the same seed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from envgym.causes import Replay, decide
from envgym.errors import EnvgymError, WorldFailure
from envgym.sandbox import Sandbox, Session, ToolResult
from envgym.sandbox.options import SandboxOptions

Request = Callable[[Session], object]
"""Request to a session: a call, a diff or a hidden test."""


@dataclass(frozen=True, slots=True)
class MadeCall:
    """Tool call that was sent to a session."""

    tool: str
    arguments: dict[str, Any]
    now: str
    """Virtual time of the call."""
    timeout_seconds: float

    def send(self, session: Session) -> ToolResult:
        """Make the call and return its result."""
        return session.call(
            self.tool, self.arguments, now=self.now, timeout_seconds=self.timeout_seconds
        )

    def __call__(self, session: Session) -> bool:
        """Make the call. Return whether it ended within its time limit."""
        return not self.send(session).is_late


def replay(
    sandbox: Sandbox, seed: int, earlier: Sequence[Request], last: Request, *, open_seconds: float
) -> Replay:
    """Make the same requests in a new session with the same seed.

    Args:
        sandbox: Sandbox of the environment.
        seed: Seed of the task's state.
        earlier: Requests that had worked.
        last: Request that had failed.
        open_seconds: Time limit for opening the session.

    Returns:
        Whether the last request failed again. A call that is stopped at its time limit failed.
    """
    try:
        session = sandbox.open(seed=seed, timeout_seconds=open_seconds)
    except EnvgymError:
        return "impossible"
    try:
        return _repeat(session, earlier, last)
    finally:
        session.close()


def _repeat(session: Session, earlier: Sequence[Request], last: Request) -> Replay:
    try:
        for request in earlier:
            request(session)
    except EnvgymError:
        return "impossible"
    try:
        return "failed_again" if last(session) is False else "succeeded"
    except WorldFailure as again:
        return "impossible" if again.box == "gone" else "failed_again"


class FailureJudge:
    """Decides whether the model caused a failure. Safe to use from many threads.

    Args:
        sandbox: Sandbox in which calls are replayed.
        options: Settings of the sandbox.
    """

    def __init__(self, sandbox: Sandbox, options: SandboxOptions):
        self._sandbox = sandbox
        self._executes_code = options.executes_code
        self._open_seconds = options.open_timeout_seconds
        self._losing = threading.Lock()

    def is_of_model(
        self, failure: WorldFailure, seed: int, earlier: Sequence[Request], last: Request | None
    ) -> bool:
        """Return whether the model caused a failure. Close the failed session first.

        Args:
            failure: Failure of a running episode.
            seed: Seed of the task's state.
            earlier: Requests of the episode that had worked.
            last: Request that failed. None if none was sent.
        """
        verdict = decide(failure, executes_code=self._executes_code)
        if verdict == "replay" and last is not None:
            # Calls that may end a box are replayed one at a time, so that one replay does not fail
            # because of another one.
            with self._losing if failure.box == "lost" else nullcontext():
                found = self._replay(failure, seed, earlier, last)
            verdict = decide(failure, executes_code=self._executes_code, replay=found)
        return verdict == "model"

    def _replay(
        self, failure: WorldFailure, seed: int, earlier: Sequence[Request], last: Request
    ) -> Replay:
        seconds = self._open_seconds
        if failure.stage != "call":
            # If a state without any call cannot be read either, the calls are not the cause.
            control = replay(self._sandbox, seed, (), last, open_seconds=seconds)
            if not earlier or control != "succeeded":
                return "impossible"
        return replay(self._sandbox, seed, earlier, last, open_seconds=seconds)
