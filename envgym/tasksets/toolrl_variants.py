"""Variants of ToolRL rows: random tool names, and requests without the needed tool.

Both parse the numbered list of tools in a row's system text (`1. Name: ...`, `Description: ...`,
`Parameters: ...`). Source: Hammer, arXiv 2410.04587: function masking, and an irrelevance set in
which no tool fits.
"""

from __future__ import annotations

import dataclasses
import json
import random
import re
import string
from collections.abc import Sequence

from envgym.errors import UsageError
from envgym.rewards.scoring.toolrl import truth_calls
from envgym.tasksets.toolrl_example import ToolRLExample

NO_TOOL = (
    "<think> None of the tools can do this. </think>\n"
    "<response> None of my tools can do this. </response>"
)
"""Truth of a request without the needed tool. The text of a response is not compared."""
_TOOL = re.compile(
    r"^\d+\. Name: (?P<name>[^\n]*)\n(?P<rest>.*?^Parameters: [^\n]*)", re.DOTALL | re.MULTILINE
)
_LETTERS = string.ascii_letters + string.digits + "_"


def tool_names(row: ToolRLExample) -> list[str]:
    """Return the names of the tools that a row offers.

    Raises:
        UsageError: If the system text has no list of tools.
    """
    names = [tool["name"] for tool in _TOOL.finditer(row.system)]
    if not names:
        raise UsageError(
            f"{row.where}: the system text lists no tools in the form "
            "`1. Name: ...`, `Parameters: ...`"
        )
    return names


def masked_row(row: ToolRLExample, rng: random.Random) -> ToolRLExample:
    """Return the row with random tool names, equal in system text, dialogue and truth.

    A name that looks like an identifier (`find_room`) is replaced at each occurrence as a whole
    word. A name that could be plain words (`search`, `Event Result`) is replaced only in the list
    and as the `name` of a call.
    """
    new: dict[str, str] = {}
    for name in tool_names(row):
        new[name] = _random_name(rng, taken=set(new.values()))
    system, user, truth = (_renamed(text, new) for text in (row.system, row.user, row.truth))
    masked = dataclasses.replace(row, system=system, user=user, truth=truth)
    if unmasked := {call["name"] for call in truth_calls(truth)} & (new.keys() - set(new.values())):
        raise UsageError(
            f"{row.where}: the name '{min(unmasked)}' in the truth could not be masked; "
            "write it without escapes"
        )
    return masked


def irrelevant_rows(rows: Sequence[ToolRLExample]) -> tuple[ToolRLExample, ...]:
    """Return rows without their needed tools, with a truth that answers without a call.

    A row is skipped if its truth has no call, if its dialogue already called one of these tools, or
    if it has no other tool.

    Args:
        rows: Rows whose system text lists their tools.
    """
    return tuple(made for row in rows if (made := _without_its_tools(row)) is not None)


def _without_its_tools(row: ToolRLExample) -> ToolRLExample | None:
    needed = {call["name"] for call in truth_calls(row.truth)}
    if (
        not needed
        or any(_is_called(name, row.user) for name in needed)
        or not set(tool_names(row)) - needed
    ):
        return None
    return dataclasses.replace(row, system=_relisted(row.system, needed), truth=NO_TOOL)


def _is_called(name: str, dialogue: str) -> bool:
    spellings = {json.dumps(name), json.dumps(name, ensure_ascii=False)}
    return any(re.search(rf'"name":\s*{re.escape(spelling)}', dialogue) for spelling in spellings)


def _relisted(system: str, without: set[str]) -> str:
    """Return the system text without some tools, with the other tools renumbered."""
    tools = list(_TOOL.finditer(system))
    kept = [tool for tool in tools if tool["name"] not in without]
    lines = [
        f"{number}. Name: {tool['name']}\n{tool['rest']}"
        for number, tool in enumerate(kept, start=1)
    ]
    return system[: tools[0].start()] + "\n".join(lines) + system[tools[-1].end() :]


def _renamed(text: str, new: dict[str, str]) -> str:
    """Replace all names in one pass, the longest first, because one name may be part of another."""
    spellings = {spelling: name for name in new for spelling in (name, json.dumps(name)[1:-1])}
    ordered = sorted(spellings, key=len, reverse=True)
    pattern = "|".join(_place_of(spelling) for spelling in ordered)
    return re.sub(pattern, lambda found: new[spellings[found[0]]], text)


def _place_of(name: str) -> str:
    word = re.escape(name)
    if re.search(r"[A-Za-z0-9][_.\d]|[a-z][A-Z]", name) and not re.search(r"\s", name):
        return rf"(?<!\w){word}(?!\w)"
    return rf'(?<=\. Name: ){word}(?=\n)|(?<="name": "){word}(?=")|(?<="name":"){word}(?=")'


def _random_name(rng: random.Random, *, taken: set[str]) -> str:
    while True:
        name = rng.choice(string.ascii_letters) + "".join(
            rng.choices(_LETTERS, k=rng.randint(5, 10))
        )
        if name not in taken:
            return name
