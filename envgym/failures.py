"""Limit on void episodes in a run.

A run stops if too many of its last episodes were void, because continuing with a broken environment
wastes time. `play_many` retries every void episode once; both attempts count here.
"""

from __future__ import annotations

from collections import Counter, deque

from envgym.episode import Episode, Failure
from envgym.errors import TooManyFailures

LEAST = 16
"""Minimum number of attempts before the limit applies."""
WINDOW = 64
"""Number of last attempts over which the fraction is computed."""
MESSAGE_CHARS = 600
"""Maximum number of characters quoted from a failure. The end is kept: it names the exception."""


class FailureLimit:
    """Stop a run if too many of its last attempts were void. Use one object for the whole run.

    Args:
        max_void_fraction: Maximum fraction of void attempts, `episode.max_void_fraction` of the
            environment; 1 disables the limit.
        logged: Sentence for the message that names the file with all failures.
    """

    def __init__(self, max_void_fraction: float, *, logged: str):
        self.max_void_fraction = max_void_fraction
        self._logged = logged
        self._last: deque[Failure | None] = deque(maxlen=WINDOW)
        self._has_played = False

    def count(self, episode: Episode) -> None:
        """Count an episode, and its first attempt if that was void.

        Raises:
            TooManyFailures: If the limit is exceeded.
        """
        if episode.retried_failure is not None:
            self._last.append(episode.retried_failure)
        self._last.append(episode.failure)
        self._has_played |= not episode.is_void
        failures = [failure for failure in self._last if failure is not None]
        if len(self._last) >= LEAST and len(failures) / len(self._last) > self.max_void_fraction:
            raise TooManyFailures(self._words(failures))

    def require_one(self) -> None:
        """Check that an episode was played at all.

        Raises:
            TooManyFailures: If every counted episode was void.
        """
        failures = [failure for failure in self._last if failure is not None]
        if failures and not self._has_played:
            raise TooManyFailures(
                f"nothing was measured: every episode was void. Last failure: "
                f"{failures[-1].kind} in {failures[-1].stage}:\n"
                f"{failures[-1].message[-MESSAGE_CHARS:].strip()}\n{self._logged} "
                "Repair the environment (`envgym check` plays it without a model)"
            )

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
            f"stopped: the environment failed in {len(failures)} of the last {played} episodes, "
            f"retries included ({len(failures) / played:.0%}; "
            f"episode.max_void_fraction allows {self.max_void_fraction:.0%}).\n"
            f"Most frequent failure ({often} times): {kind} in {stage}. Last example:\n"
            f"{example.message[-MESSAGE_CHARS:].strip()}\n"
            f"{self._logged} Repair the environment (`envgym check` plays it without a model), "
            "or allow more: "
            f"episode.max_void_fraction={min(1.0, len(failures) / played + 0.05):.2f}"
        )
