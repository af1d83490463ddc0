"""Errors that envgym raises for users.

    EnvgymError
    ├── SpecError          error in a YAML file, an override or a file that these refer to
    ├── PrerequisiteError  something must be installed, started or downloaded first
    ├── UsageError         a command or function was called incorrectly
    ├── TooManyFailures    too many episodes were void
    └── WorldFailure       an episode cannot go on: lost sandbox, killed call, failed grader

The CLI prints the first four without a traceback and exits with `exit_code`. `causes.py` decides
whether a `WorldFailure` is the world's, which makes the episode void (`Episode.failure`), or the
model's. A mistake of the *model* raises no error: it becomes an observation. `ToolError` is for
tools, which refuse a call by raising it.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from envgym.secrets import redact
from envgym.text import clean

EXIT_CODES = {
    0: "The command succeeded.",
    1: "The command failed: a check, or too many void episodes.",
    2: "A YAML, an override or an argument is wrong.",
    3: "Something must be installed, started or downloaded first.",
    130: "The command was interrupted (Ctrl-C).",
}
"""Exit codes of the command line, with their meaning."""

Stage = Literal["open", "call", "diff", "score", "policy", "step"]
"""Part of an episode in which the environment failed."""
BoxState = Literal["alive", "lost", "gone"]
"""State of the box at a failure: `alive` (it answered, or there is no box), `lost` (it ended or was
silent during the request) or `gone` (it had ended before the request was sent)."""
Neighbours = Literal["none", "moved", "still"]
"""Other sessions of the box during a failed request: none had a request, at least one was answered,
or none of those that had a request was answered."""


class EnvgymError(Exception):
    """Base class of all errors that envgym raises on purpose. Messages contain no secret."""

    exit_code: ClassVar[int] = 2
    """Exit code of a command that ends with this error."""

    def __init__(self, *arguments: object):
        super().__init__(*(redact(each) if isinstance(each, str) else each for each in arguments))


class SpecError(EnvgymError, ValueError):
    """The definition of the environment is wrong.

    The message has one line `file:line: problem` per mistake.
    """


class PrerequisiteError(EnvgymError, RuntimeError):
    """Something outside envgym is missing. The message ends with the remedy."""

    exit_code = 3


class UsageError(EnvgymError, ValueError):
    """A call cannot work with these arguments. The message describes valid ones."""


class TooManyFailures(EnvgymError, RuntimeError):
    """More episodes were void than `episode.max_void_fraction` allows.

    The message has the fraction, an example and the remedy.
    """

    exit_code = 1


class ToolError(Exception):
    """Refusal of a tool call. Raise it in a tool; the model sees the message as an observation.

    Boxes without envgym have a class of the same name, so that tools can import it anywhere.
    """


class WorldFailure(EnvgymError):
    """The environment failed, and the episode cannot go on. `causes.decide` names the cause.

    Args:
        kind: Short machine-readable name, such as `sandbox_lost`, `session_ended`, `timeout`,
            `reward_raised`, `env_raised`.
        message: Description for people.
        stage: Part of the episode in which it happened.
        box: State of the box.
        neighbours: What happened to other sessions of the box at the same time.
    """

    def __init__(
        self,
        kind: str,
        message: str,
        *,
        stage: Stage,
        box: BoxState = "alive",
        neighbours: Neighbours = "none",
    ):
        message = redact(clean(message))
        super().__init__(f"{kind} in {stage}: {message}")
        self.kind = kind
        self.message = message
        self.stage = stage
        self.box: BoxState = box
        self.neighbours: Neighbours = neighbours

    def __reduce__(self):  # by default, an exception with keyword arguments cannot be unpickled
        return _rebuild, (self.kind, self.message, self.stage, self.box, self.neighbours)


def _rebuild(
    kind: str, message: str, stage: Stage, box: BoxState, neighbours: Neighbours
) -> WorldFailure:
    return WorldFailure(kind, message, stage=stage, box=box, neighbours=neighbours)


def did_you_mean(word: str, options) -> str:
    """Return `, did you mean 'x'?` for the most similar option, or an empty string."""
    import difflib

    close = difflib.get_close_matches(
        str(word), [str(option) for option in options], n=1, cutoff=0.6
    )
    return f", did you mean '{close[0]}'?" if close else ""
