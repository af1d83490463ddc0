"""How much failure of the world a run puts up with: a cap over the last episodes, and words that say how to go on.

A broken world is no lesson, and a run that goes on in one wastes days. Left out: what a failure is (`errors.py`), and the
second attempt that every void episode gets (`play.py`).
"""

from __future__ import annotations

from collections import Counter, deque

from envgym.episode import Episode, Failure
from envgym.errors import TooManyFailures

LEAST = 16
"""Attempts before a share is believed."""
WINDOW = 64
"""Attempts that are looked back on."""
MESSAGE_CHARS = 600
"""Of the failure that is quoted; the end of a traceback is its telling part."""


class FailureCap:
    """Stops a run in which too many of the last attempts at an episode were void. One for a run, over all its steps.

    Args:
        max_void: share of void attempts that is allowed, `episode.max_void` of the environment; 1 allows everything.
        logged: where every failure can be read, for the message.
    """

    def __init__(self, max_void: float, *, logged: str):
        self.max_void = max_void
        self._logged = logged
        self._last: deque[Failure | None] = deque(maxlen=WINDOW)

    def count(self, episode: Episode) -> None:
        """Counts an episode with its first attempt, if that was void. Raises TooManyFailures."""
        if episode.first_failure is not None:
            self._last.append(episode.first_failure)
        self._last.append(episode.failure)
        failures = [failure for failure in self._last if failure is not None]
        if len(self._last) >= LEAST and len(failures) / len(self._last) > self.max_void:
            raise TooManyFailures(self._words(failures))

    def _words(self, failures: list[Failure]) -> str:
        played = len(self._last)
        (kind, stage), often = Counter(
            (failure.kind, failure.stage) for failure in failures
        ).most_common(1)[0]
        example = next(
            failure
            for failure in reversed(failures)
            if (failure.kind, failure.stage) == (kind, stage)
        )
        return (
            f"stopped: the world broke in {len(failures)} of the last {played} episodes, second attempts included "
            f"({len(failures) / played:.0%}; episode.max_void allows {self.max_void:.0%}).\n"
            f"Most often ({often} times): {kind} in {stage}, last of all:\n{example.message[-MESSAGE_CHARS:].strip()}\n"
            f"{self._logged} Repair the environment (`envgym check` plays it without a model), "
            f"or allow more: episode.max_void={min(1.0, len(failures) / played + 0.05):.2f}"
        )
