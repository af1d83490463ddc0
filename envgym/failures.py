"""Limit on void episodes in a run, and the log of failures of tools.

A run stops if too many of its last episodes were void, because continuing with a broken environment
wastes time. `play_many` retries every void episode once; both attempts count here. Failures that a
model caused do not count: they end the episode with the failure reward (`causes.py`).
"""

from __future__ import annotations

import logging
import threading
from collections import Counter, deque
from collections.abc import Sequence

from envgym.episode import Episode, Failure
from envgym.errors import TooManyFailures

log = logging.getLogger(__name__)
MAX_FAULTS = 20
"""Maximum number of different failures of tools that are logged for one environment."""
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


class FaultLog:
    """Log each different failure of a tool once. Safe to use from many threads.

    Args:
        env_id: Id of the environment in the messages.
    """

    def __init__(self, env_id: str):
        self._env_id = env_id
        self._seen = set[str]()
        self._lock = threading.Lock()

    def report(self, faults: Sequence[str]) -> None:
        """Log the failures that were not logged before, so that the author can mend the tools."""
        with self._lock:
            new = [fault for fault in faults if fault not in self._seen]
            new = new[: max(0, MAX_FAULTS - len(self._seen))]
            self._seen.update(new)
        for fault in new:
            log.warning(
                "a tool of %s failed: %s. The model saw an observation. To refuse a call, raise "
                "ToolError.",
                self._env_id,
                fault,
            )
