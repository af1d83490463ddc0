"""How things fail in a box: the app is wrong, or the world broke."""

from __future__ import annotations

import traceback
from pathlib import Path


class AppError(ValueError):
    """The app's own files are wrong; the message names the file."""


class BoxError(Exception):
    """A request that failed in the world, not by the model; `kind` as of `envgym.errors.WorldFailure`."""

    def __init__(self, kind: str, message: str):
        super().__init__(message)
        self.kind = kind


def tail_of(error: BaseException, size: int = 2000) -> str:
    """The end of a traceback, in characters; the agent's own frames are left out where others follow."""
    trace = error.__traceback__
    while (
        trace
        and trace.tb_next
        and Path(trace.tb_frame.f_code.co_filename).parent == Path(__file__).parent
    ):
        trace = trace.tb_next
    return "".join(traceback.format_exception(type(error), error, trace))[-size:].rstrip()
