"""Errors of the agent: a defect of the app, or a failure of the box."""

from __future__ import annotations

import traceback
from pathlib import Path


class AppError(ValueError):
    """The app's files are wrong. The message names the file."""


class BoxError(Exception):
    """A request failed because of the environment, not the model.

    `kind` is a kind of `envgym.errors.WorldFailure`.
    """

    def __init__(self, kind: str, message: str):
        super().__init__(message)
        self.kind = kind


def tail_of(error: BaseException, size: int = 2000) -> str:
    """Return the last `size` characters of a traceback.

    The agent's own frames are dropped if other frames follow.
    """
    trace = error.__traceback__
    while (
        trace
        and trace.tb_next
        and Path(__file__).parent in Path(trace.tb_frame.f_code.co_filename).parents
    ):
        trace = trace.tb_next
    text = "".join(traceback.format_exception(type(error), error, trace))[-size:].rstrip()
    return text + missing_file_hint(error)


def missing_file_hint(error: BaseException) -> str:
    """Return advice if a file that lies beside the code is missing: boxes get files by a list."""
    if not isinstance(error, FileNotFoundError) or not isinstance(error.filename, str):
        return ""
    codes = [Path(frame.f_code.co_filename) for frame, _ in traceback.walk_tb(error.__traceback__)]
    if any(code.parent in Path(error.filename).parents for code in codes if code.is_absolute()):
        return (
            f"\n{error.filename} is not in the box, which gets the Python files that tools import "
            "and the files of sandbox.files. List it there"
        )
    return ""
