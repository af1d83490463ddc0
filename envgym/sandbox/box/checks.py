"""Run hidden tests, each in a fresh box that never served a session.

If a box cannot be started, the world failed. If a box ends during a test, the test is repeated in
another box: if that one ends as well, the model's code ended it, and the test has failed.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from envgym.errors import PrerequisiteError, SpecError, WorldFailure
from envgym.sandbox import VERIFY_SECONDS, Verification
from envgym.sandbox.agent.hidden_test.command import read_test_command
from envgym.sandbox.box.channel import Box, Transport
from envgym.sandbox.options import ACCEPT_RISK
from envgym.sandbox.statistics import Statistics

CAPABILITIES = ("CHOWN", "DAC_OVERRIDE", "KILL", "SETGID", "SETUID")
"""Capabilities of root in a check box: to start programs under another user, to read their files
and to end them."""
FIRST_USER = 2**30
USERS = 2**29
ATTEMPTS = 2
WAY_OUT = (
    f"Use sandbox.backend=docker, podman or bubblewrap, or accept the risk in words: {ACCEPT_RISK}"
)


class CheckRunner:
    """Start check boxes and run tests in them. Safe to share between threads.

    Args:
        start: Returns the transport of an agent in a new box.
        hello: Fields of its first message, in addition to the kind of the box: `users`, `place`,
            `is_open` (see `agent/verify.py`), and `limits` or `private` as for other boxes.
        timeout_seconds: Time limit to start a box.
    """

    def __init__(
        self,
        start: Callable[[], Transport],
        hello: Mapping[str, Any],
        *,
        timeout_seconds: float,
        statistics: Statistics,
    ):
        self._start = start
        self._hello = {"isolation": "check", **hello}
        self._timeout_seconds = timeout_seconds
        self._statistics = statistics

    def run(
        self,
        tree: Mapping[str, Any],
        files: Mapping[str, str],
        inputs: Mapping[str, str],
        command: Sequence[str],
        *,
        timeout_seconds: float,
    ) -> Verification:
        """Run a command on a tree of final files. See `Session.verify`.

        Raises:
            WorldFailure: Stage `score`, if no box can be started.
            PrerequisiteError: If a box cannot keep programs from the test.
        """
        check_command(command, files)
        reason = ""
        for _ in range(ATTEMPTS):
            box = self._open()
            try:
                said = box.request(
                    "verify",
                    stage="score",
                    timeout_seconds=timeout_seconds + VERIFY_SECONDS,
                    tree=tree,
                    files=dict(files),
                    inputs=dict(inputs),
                    command=list(command),
                    seconds=timeout_seconds,
                )
                return Verification(**said)
            except WorldFailure as failure:
                reason = failure.message
            finally:
                box.end("the check has ended")
        return Verification(None, f"the test ended its box, {ATTEMPTS} times: {reason}")

    def _open(self) -> Box:
        try:
            with self._statistics.timed("check/start"):
                return Box(
                    self._start(),
                    self._hello,
                    timeout_seconds=self._timeout_seconds,
                    statistics=self._statistics,
                )
        except WorldFailure as failure:
            if failure.kind == "check_refused":
                raise PrerequisiteError(
                    "a hidden test cannot be kept from the model's code here: "
                    f"{failure.message}. {WAY_OUT}"
                ) from None
            raise WorldFailure(failure.kind, failure.message, stage="score") from None


def check_command(command: Sequence[str], files: Mapping[str, str]) -> None:
    """Raise SpecError if the command of a check cannot be kept from the model's code."""
    try:
        read_test_command(command, files)
    except ValueError as error:
        raise SpecError(f"Check.command: {error}") from None


def random_user() -> int:
    """Return a user id that no account has, for programs in a box with the machine's user ids."""
    return FIRST_USER + secrets.randbelow(USERS)
