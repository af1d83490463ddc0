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
_SEARCHED = 20_000
"""Number of characters at the start and at the end of a text that are searched for the tools."""
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
    if len(text) > 2 * _SEARCHED:
        text = f"{text[:_SEARCHED]}\n{text[-_SEARCHED:]}"
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
    # Python: at the start of a line, after a colon or a tag, or with keyword arguments.
    start = r"^[ \t>*`\[\d.-]{0,20}(?:\w{1,40}[ \t]*=[ \t]*)?(?:await[ \t]+)?(?:print\()?"
    yield rf"{start}{tool}\(", alone
    yield rf"{start}{tool}[ \t]*\([ \t]*\w+[ \t]*=", alone
    yield rf"[:>][ \t]*[`\[]?{tool}\(", alone
    yield rf"(?<![\w.]){tool}\([ \t]*\w+[ \t]*=[^\n]{{0,2000}}\)[\]`.!]{{0,5}}[ \t]*$", alone
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
    yield (
        rf"(?<![\w.]){tool}[`'\"]*[ \t]+(?:with|using|on|for)\b[^\n{{}}]{{0,30}}\{{\s*[\"']",
        alone,
    )
    yield rf"^[ \t-]*name:[ \t]*[\"']?{tool}[\"']?[ \t]*\n[ \t]*(?:{_ARGUMENTS_KEYS}):", other
    # XML: the name in a tag, in an attribute or alone in a tag.
    yield rf"<{tool}(?:\s[^<>]*)?/?>", other
    yield rf"""<[^<>]*[\w:]\s*=\s*["']?{tool}["']?[\s/>]""", other
    yield rf"<[\w:|]*(?:tool|function|name|invoke|call)[\w:|]*>\s*{tool}\s*<", other
    yield rf"<\|[^<>|\n]+\|>\s*{tool}\b", other
    # Lines of agents: `Action: f`, `f id="a" value=7`.
    words = "(?i:action|tool|function|call|tool call|tool name)"
    yield rf"^[ \t*]*{words}[ \t*]*:[ \t*`]*{tool}\b[ \t*`]*(?:$|[\[({{])", other
    yield rf"^[ \t`$>!/@]*{tool}[ \t]+(?:--)?\w+=", other
