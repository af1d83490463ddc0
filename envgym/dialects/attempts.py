"""Find text that is meant as a call, in a form that no offered dialect reads.

Signs: a mark of any dialect, or the name of a tool together with arguments, as JSON, XML, Python or
`Action:` lines. Words that only mention a tool are no attempt.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from envgym.dialects.known import is_near
from envgym.dialects.literals import MalformedCall, excerpt

_NAME_KEYS = (
    "name|tool|tool_?name|toolName|function|function_?name|functionName|action|recipient_name"
)
_ARGUMENTS_KEYS = "arguments|parameters|args|kwargs|input|action_input|tool_input"
OTHER_MARKS = (
    *("<|recipient|>", "<|tools_prefix|>", "function call<|role_sep|>", "<steptml:invoke"),
    *("<｜tool_calls_begin｜>", "<｜tool_call_begin｜>", "<use_mcp_tool>", "<tool_use>"),
    *(
        "<|function_call|>",
        "<|tool_calls|>",
        "<|tool_calls_begin|>",
        "<|tool_call_argument_begin|>",
    ),
)
"""Texts that announce a call in families without a dialect here: Functionary 2, Apertus, GigaChat,
Step3, Cline and others."""
_MOST_NAMES = 500
"""Number of tools whose names are searched for."""


class UnreadableCall(MalformedCall):
    """Attempt in a form that is not read here. The message is followed by an example."""


def refuse_attempts(text: str, marks: Sequence[str], known: Iterable[str]) -> None:
    """Raise UnreadableCall if a text without readable calls is meant as one.

    Args:
        text: Answer without reasoning.
        marks: Texts that announce a call in some dialect.
        known: Names of the tools.
    """
    if found := _first((*marks, *OTHER_MARKS), text):
        raise UnreadableCall(f"{excerpt(found)} starts a call in a form that is not read here")
    names = [name for name in list(known)[:_MOST_NAMES] if name]
    if _has_json_call(text, names):
        raise UnreadableCall("this looks like a call, but in a form that is not read here")
    if not names or not (present := [name for name in names if name in text]):
        return
    name = "|".join(re.escape(each) for each in sorted(present, key=len, reverse=True))
    tool = rf"(?:\w{{1,40}}\.){{0,3}}(?:{name})"
    for pattern, problem in _patterns(tool):
        if re.search(pattern, text, re.MULTILINE):
            raise UnreadableCall(problem)


def _has_json_call(text: str, names: Sequence[str]) -> bool:
    """Return whether a text has JSON with arguments and a name that is nearly that of a tool."""
    if not re.search(rf"""["'](?:{_ARGUMENTS_KEYS})["']\s*:""", text):
        return False
    named = re.findall(rf"""["'](?:{_NAME_KEYS})["']\s*:\s*["']([^"'\n]{{1,80}})["']""", text)
    return any(is_near(each, names) for each in named[:_MOST_NAMES])


def _first(marks: Sequence[str], text: str) -> str | None:
    found = [(text.find(mark), -len(mark), mark) for mark in marks if mark in text]
    return min(found)[2] if found else None


def _patterns(tool: str) -> Iterable[tuple[str, str]]:
    """Return patterns of calls of a tool, and the message for each.

    Args:
        tool: Pattern of the names of the tools, with an optional prefix such as `functions.`.
    """
    alone = "write the call alone, without any other text"
    other = "this looks like a call, but in a form that is not read here"
    # Python: at the start of a line, after a colon, or with keyword arguments at the end of a line.
    yield rf"^[ \t>*`\[-]*(?:print\()?{tool}\(", alone
    yield rf":[ \t]*[`\[]?{tool}\(", alone
    yield rf"(?<![\w.]){tool}\([ \t]*\w+[ \t]*=[^\n]*\)[\]`.!]*[ \t]*$", alone
    # JSON, also with other keys or quotes.
    yield (
        rf"""["'](?:{_NAME_KEYS})["']\s*:\s*["']{tool}["']""",
        f"{alone}, in the form that is read",
    )
    yield rf"""[{{,]\s*(?:{_NAME_KEYS})\s*:\s*["']{tool}["']""", other
    yield rf"""[{{\[]\s*["']{tool}["']\s*[:,]\s*\{{""", other
    # Name and an object: `f{{"a": 1}}`, `call:f{{a:1}}`, `f\n```json\n{{...`.
    yield (
        rf"(?<![\w.]){tool}(?::\d+)?[ \t]*(?:\[ARGS\]|<[^<>\n]*>)?:?\s*(?:```\w*\s*)?"
        rf"\{{\s*(?:[\"'}}]|\w+\s*:)",
        other,
    )
    # XML: the name in a tag, in an attribute or alone in a tag.
    yield rf"<{tool}(?:\s[^<>]*)?/?>", other
    yield rf"""<[^<>]*[\w:]\s*=\s*["']?{tool}["']?[\s/>]""", other
    yield rf"<[\w:|]*(?:tool|function|name|invoke|call)[\w:|]*>\s*{tool}\s*<", other
    # Lines of agents: `Action: f`, `f id="a" value=7`.
    yield (
        rf"^[ \t*]*(?:Action|Tool|Function|Call|Tool call)[ \t*]*:[ \t*`]*{tool}\b[ \t*`]*$",
        other,
    )
    yield rf"^[ \t`$>]*{tool}[ \t]+(?:--)?\w+=", other
