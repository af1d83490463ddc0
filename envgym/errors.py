"""Every error that envgym raises for people, in one tree.

    EnvgymError
    ├── SpecError          a YAML file, an override or a reference in it is wrong (the user's mistake)
    ├── PrerequisiteError  something must be installed, started or fetched first
    ├── UsageError         a command or function was called in a way it cannot serve
    ├── TooManyFailures    the world broke so often that going on would be a waste
    └── WorldFailure       the world broke: box lost, tool crashed, grader raised, host too slow

The CLI shows the first four without a traceback and exits with 2 (3 for a prerequisite, 1 for too many failures). A
`WorldFailure` never reaches the user: `play` turns it into `Episode.failure`, and the episode is void. What a *model* does
wrong is no error at all: it is an observation.
"""

from __future__ import annotations

from typing import Literal

Stage = Literal["open", "call", "diff", "score", "policy", "step"]
"""Where in an episode the world broke."""


class EnvgymError(Exception):
    """Base of all errors that envgym raises on purpose."""


class SpecError(EnvgymError, ValueError):
    """The environment's definition is wrong; the message holds one `file:line: what` per mistake."""


class PrerequisiteError(EnvgymError, RuntimeError):
    """Something outside envgym is missing; the message ends with the way out."""


class UsageError(EnvgymError, ValueError):
    """Called in a way that cannot work; the message says what would."""


class TooManyFailures(EnvgymError, RuntimeError):
    """More episodes were void than `episode.max_void` allows; the message holds the share, an example and the way out."""


class WorldFailure(EnvgymError):
    """The world, not the model, failed: the episode is void and has no reward.

    Args:
        kind: short machine-readable name, such as `sandbox_lost`, `tool_crashed`, `reward_raised`, `env_raised`,
            `timeout`.
        message: what happened, for people.
        stage: the part of the episode in which it happened.
    """

    def __init__(self, kind: str, message: str, *, stage: Stage):
        super().__init__(f"{kind} in {stage}: {message}")
        self.kind = kind
        self.message = message
        self.stage = stage

    def __reduce__(self):  # exceptions with keyword arguments do not survive pickling by themselves
        return _rebuild, (self.kind, self.message, self.stage)


def _rebuild(kind: str, message: str, stage: Stage) -> WorldFailure:
    return WorldFailure(kind, message, stage=stage)


def did_you_mean(word: str, options) -> str:
    """`, did you mean 'x'?` for the closest option, or an empty string."""
    import difflib

    close = difflib.get_close_matches(
        str(word), [str(option) for option in options], n=1, cutoff=0.6
    )
    return f", did you mean '{close[0]}'?" if close else ""
