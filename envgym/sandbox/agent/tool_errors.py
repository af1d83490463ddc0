"""Separate a tool's refusals from its failures, by the place where the exception was raised.

A refusal is deliberate: a class named `ToolError`, or a ValueError or LookupError that a `raise`
statement in the tool's own files raises. Every other exception, such as the KeyError of a missing
key or the ValueError of `int("n/a")`, is a failure of the tool.
"""

from __future__ import annotations

import opcode
import os
import types
from pathlib import Path
from typing import Any

REFUSAL = "ToolError"
"""Name of the exception class that refuses a call. Tools run where envgym is not installed, so the
class is recognized by its name, also among base classes."""
RAISE = opcode.opmap["RAISE_VARARGS"]
OPENAPI_FOLDER = str(Path(__file__).parent / "openapi") + os.sep
"""Folder of the simulated operations, whose refusals count as those of a tool."""
TEXT_CHARS = 200
"""Maximum number of characters of an exception's text that the model sees."""


class ToolError(Exception):
    """Refusal of a tool call. The model sees the message as an observation."""


def is_refusal(error: BaseException, root: str) -> bool:
    """Return whether a tool raised this exception on purpose.

    Args:
        error: Exception that escaped the tool.
        root: Folder of the app's files.
    """
    if any(each.__name__ == REFUSAL for each in type(error).__mro__):
        return True
    if not isinstance(error, ValueError | LookupError):
        return False
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    if trace is None or not _is_own(trace.tb_frame.f_code.co_filename, root):
        return False
    code = trace.tb_frame.f_code.co_code
    return 0 <= trace.tb_lasti < len(code) and code[trace.tb_lasti] == RAISE


def refusal_text(error: BaseException) -> str:
    """Return the message of a refusal, or its class name if there is no message."""
    # str() of a KeyError quotes its message.
    lone_key = isinstance(error, KeyError) and len(error.args) == 1
    return _str(error.args[0] if lone_key else error) or type(error).__name__


def short_text(error: BaseException) -> str:
    """Return the class and the first line of the message of an exception, without a traceback."""
    line = _str(error).strip().partition("\n")[0]
    text = f"{type(error).__name__}: {line}" if line else type(error).__name__
    return text if len(text) <= TEXT_CHARS else text[: TEXT_CHARS - 3] + "..."


def place_of(error: BaseException, root: str, tool: str) -> str:
    """Return `file:line` of the deepest frame in the app's files, or the name of the tool."""
    place = ""
    trace = error.__traceback__
    while trace:
        file = trace.tb_frame.f_code.co_filename
        if _is_own(file, root):
            folder = os.path.realpath(root)
            name = os.path.relpath(file, folder) if file.startswith(folder) else file
            place = f"{name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place or f"tool '{tool}'"


def provide_envgym(modules: dict[str, Any]) -> None:
    """Make `from envgym import ToolError` work in a box, where envgym is not installed.

    Args:
        modules: `sys.modules` of the agent.
    """
    if "envgym" not in modules:
        stand_in = types.ModuleType("envgym", "The names of envgym that tools may import.")
        stand_in.ToolError = ToolError  # type: ignore[attr-defined]
        modules["envgym"] = stand_in


def _is_own(file: str, root: str) -> bool:
    if file.startswith(OPENAPI_FOLDER):
        return True
    folder = os.path.realpath(root).rstrip(os.sep) + os.sep
    return file.startswith(folder) and "site-packages" not in file


def _str(value: Any) -> str:
    try:
        return str(value)
    except Exception as error:  # A class of the tool may have a broken __str__.
        return f"its text cannot be made: {type(error).__name__}"
