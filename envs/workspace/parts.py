"""Helpers of all levels' templates: files of a folder, new names, tool calls, expected changes."""

from __future__ import annotations

import random

from envgym import Change, Draw, ToolCall

SYLLABLES = ("ba", "dro", "fe", "gi", "ku", "lo", "mi", "na", "pe", "ru", "sa", "to", "vi", "zu")


def files_in(draw: Draw, folder: str, ending: str = "") -> list[str]:
    """Return the paths in a folder in sorted order.

    Raises:
        LookupError: If there are none, so that another seed is drawn.
    """
    found = sorted(
        path for path in draw.files if path.startswith(f"{folder}/") and path.endswith(ending)
    )
    if not found:
        raise LookupError(f"no {ending} file in {folder}")
    return found


def pick(draw: Draw, folder: str, ending: str = "") -> str:
    return draw.rng.choice(files_in(draw, folder, ending))


def new_word(rng: random.Random) -> str:
    return "".join(rng.choice(SYLLABLES) for _ in range(3))


def new_path(draw: Draw, folder: str, ending: str) -> str:
    """Draw a path in a folder that does not exist yet."""
    while (path := f"{folder}/{new_word(draw.rng)}{ending}") in draw.files:
        pass
    return path


def run(command: str) -> ToolCall:
    return ToolCall("run", {"command": command})


def write(path: str, text: str) -> ToolCall:
    return ToolCall("write_file", {"path": path, "text": text})


def patch(path: str, old: str, new: str) -> ToolCall:
    return ToolCall("patch_file", {"path": path, "old": old, "new": new})


def read(path: str) -> ToolCall:
    return ToolCall("read_file", {"path": path})


def made(path: str, text: str) -> Change:
    return Change.insert("files", path=path, text=text)


def gone(path: str) -> Change:
    return Change.delete("files", path)


def answer_file(draw: Draw) -> str:
    """Draw a file name for the answer, in the work folder itself."""
    return f"{new_word(draw.rng)}.txt"


def rows(text: str) -> list[dict[str, str]]:
    """Return the rows of a plain CSV file."""
    header, *lines = [line.split(",") for line in text.splitlines()]
    return [dict(zip(header, line, strict=True)) for line in lines]
