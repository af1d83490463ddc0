"""Read the command of a hidden test: interpreter flags, the Python code to run, its arguments."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Literal

PYTHON = ("python", "python3")
FLAGS = frozenset("BEIOPSbdqsuv")
"""Interpreter flags without an argument that a test may use."""
WITH_ARGUMENT = ("-W", "-X", "--check-hash-based-pycs")
WAY_OUT = (
    "Run a hidden Python file, `-m module` or `-c code` with `python`, and start other programs "
    "from it with subprocess"
)


@dataclass(frozen=True)
class TestCommand:
    """Parts of the command of a check."""

    kind: Literal["file", "module", "code", "program"]
    """Hidden Python file, module or code, run by our test runner; or a program, run as a whole as
    the model's code is.
    """
    target: str = ""
    flags: tuple[str, ...] = ()
    """Flags of the interpreter."""
    arguments: tuple[str, ...] = ()


def read_test_command(command: Sequence[str], hidden: Container[str]) -> TestCommand:
    """Return the parts of a check's command.

    Args:
        command: Program and arguments.
        hidden: Paths of the hidden files; empty if there are none.

    Raises:
        ValueError: If the command needs hidden files that it could not keep from the model's code.
    """
    program = TestCommand("program", arguments=tuple(command))
    if command[0] not in PYTHON:
        if not hidden:
            return program
        raise ValueError(
            f"'{command[0]}' would read the hidden files as the model's code does. {WAY_OUT}"
        )
    flags, rest = _split_flags(command[1:])
    if rest and rest[0] == "-c" and len(rest) > 1:
        return TestCommand("code", rest[1], flags, rest[2:])
    if not hidden:
        return program
    if rest and rest[0] == "-m" and len(rest) > 1:
        return TestCommand("module", rest[1], flags, rest[2:])
    if not rest or rest[0] not in hidden:
        named = f"'{rest[0]}'" if rest else "nothing"
        raise ValueError(f"`python` is to run {named}, which is not one of the files. {WAY_OUT}")
    return TestCommand("file", rest[0], flags, rest[1:])


def _split_flags(words: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the interpreter's flags and the words after them."""
    place = 0
    while place < len(words):
        word = words[place]
        if word in WITH_ARGUMENT:
            place += 2
        elif word.startswith(("-W", "-X")) or (len(word) > 1 and _is_flags(word)):
            place += 1
        else:
            break
    return tuple(words[:place]), tuple(words[place:])


def _is_flags(word: str) -> bool:
    return word[0] == "-" and set(word[1:]) <= FLAGS
