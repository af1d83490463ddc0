"""Dialects that write each argument in tags: `<parameter=word>tree</parameter>`.

One row of `DIALECTS` is one dialect. `tagged_values` has the rules for values.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from envgym.dialects.json_calls import EXAMPLE, refuse_long
from envgym.dialects.known import Known
from envgym.dialects.literals import MalformedCall, check_value, excerpt
from envgym.dialects.tagged_values import NAME, TaggedValue, tag_name, tool_name
from envgym.messages import ToolCall

_SPACE = re.compile(r"\s*")


@dataclass(frozen=True)
class Tagged:
    """Dialect of nested tags: a block, a call with a name, and its arguments."""

    block: tuple[str, str]
    """Tags around the calls."""
    call: tuple[str, str]
    """Tags around the arguments of a call; `{}` is the name of the tool."""
    argument: tuple[str, str]
    """Tags around a value; `{}` is the name of the argument."""
    one_block_each: bool = False
    """Whether each call has a block of its own."""
    needs_block: bool = True
    """Whether a call without a block is no call."""
    line_breaks: bool = False
    """Whether a value is written on lines of its own."""
    has_type: bool = False
    """Whether the tag of an argument has `string="true"` for a text and "false" for JSON."""
    FAMILIES: str = ""
    MARKS: tuple[str, ...] = ()
    TEMPLATE_MARKS: tuple[str, ...] = ()
    VLLM_PARSER: str | None = None

    @property
    def value(self) -> TaggedValue:
        return TaggedValue(self.argument[1], self.line_breaks)

    def read(self, text: str, known: Known | None = None) -> tuple[list[ToolCall], str] | None:
        """Return the calls and the text around them, or None if the form is absent.

        Raises:
            MalformedCall: If the text attempts a call that cannot be parsed.
        """
        opening, closing = self.block
        call_tag = _pattern(self.call[0], NAME)
        first = re.compile(
            rf"{re.escape(opening)}\s*{call_tag}"
            + ("" if self.needs_block else rf"|(?P<alone>{_pattern(self.call[0], NAME, 'other')})")
        )
        if not first.search(text):
            return None
        refuse_long(text)
        calls: list[ToolCall] = []
        around: list[str] = []
        at = 0
        while start := first.search(text, at):
            around.append(text[at : start.start()])
            at = start.start()
            in_block = text.startswith(opening, at)
            at += len(opening) if in_block else 0
            while found := re.compile(rf"\s*{call_tag}").match(text, at):
                call, at = self._read_call(text, found, known or {})
                calls.append(call)
                if self.one_block_each:
                    break
            at = _after(closing, text, at) if in_block else at
        return calls, "".join([*around, text[at:]]).strip()

    def _read_call(self, text: str, tag: re.Match[str], known: Known) -> tuple[ToolCall, int]:
        """Return the call that a tag starts, and the index after it."""
        name = tag.group("name")
        schemas = known.get(name, {})
        argument = re.compile(
            r"\s*" + _pattern(self.argument[0], r"[^\n<>]*?", has_type=self.has_type)
        )
        arguments: dict[str, Any] = {}
        at = tag.end()
        while found := argument.match(text, at):
            key = found.group("name")
            end = text.find(self.argument[1], found.end())
            if end < 0:
                raise MalformedCall(f"the value of '{excerpt(key)}' has no {self.argument[1]}")
            if key in arguments:
                raise MalformedCall(f"'{excerpt(key)}' stands twice in one call or object")
            is_text = self.has_type and found.group("type") == "true"
            value = text[found.end() : end]
            arguments[key] = value if is_text else self.value.read(value, schemas.get(key))
            at = end + len(self.argument[1])
        at = _after(self.call[1], text, at)
        check_value(arguments)
        return ToolCall(name, arguments), at

    def write(self, call: ToolCall, known: Known | None = None) -> str:
        """Return a call as text.

        Args:
            call: The call.
            known: Schemas of the arguments by tool and argument, if there are any.

        Raises:
            UsageError: If the syntax cannot express the call.
        """
        return self.write_all([call], known)

    def write_all(self, calls: Sequence[ToolCall], known: Known | None = None) -> str:
        """Return several calls as text. Raises UsageError if the syntax cannot express one."""
        written = [self._write_call(call, (known or {}).get(call.name, {})) for call in calls]
        blocks = written if self.one_block_each else ["\n".join(written)]
        opening, closing = self.block
        return "\n".join(f"{opening}\n{each}\n{closing}" for each in blocks)

    def _write_call(self, call: ToolCall, schemas: Mapping[str, Any]) -> str:
        lines = [self.call[0].format(tool_name(call.name))]
        for key, value in call.arguments.items():
            opening = self.argument[0].format(tag_name(call.name, key))
            if self.has_type:
                is_text = isinstance(value, str) and self.argument[1] not in value
                opening = opening.removesuffix(">") + f' string="{str(is_text).lower()}">'
                text = value if is_text else self.value.write(call.name, value)
            else:
                text = self.value.write(call.name, value, schemas.get(key))
            lines.append(f"{opening}{text}{self.argument[1]}")
        return "\n".join([*lines, self.call[1]])

    def example(self) -> str:
        """Return the instruction for the model."""
        return f"To call a tool, answer with:\n{self.write(EXAMPLE)}"


def _after(mark: str, text: str, at: int) -> int:
    """Return the index after a tag. Raises MalformedCall if it is missing."""
    space = _SPACE.match(text, at)
    at = space.end() if space else at
    if not text.startswith(mark, at):
        raise MalformedCall(f"expected {mark}, got {excerpt(text[at:]) or 'the end'}")
    return at + len(mark)


def _pattern(tag: str, name: str, group: str = "name", *, has_type: bool = False) -> str:
    """Return the pattern of a tag with a name in it."""
    before, after = tag.split("{}")
    kind = r'(?:\s+string="(?P<type>true|false)")?' if has_type else ""
    return rf"{re.escape(before)}(?P<{group}>{name}){re.escape(after.removesuffix('>'))}{kind}>"


_PARAMETERS = (("<function={}>", "</function>"), ("<parameter={}>", "</parameter>"))
_INVOKE = (('<invoke name="{}">', "</invoke>"), ('<parameter name="{}">', "</parameter>"))
_DSML = (
    ('<｜DSML｜invoke name="{}">', "</｜DSML｜invoke>"),
    ('<｜DSML｜parameter name="{}">', "</｜DSML｜parameter>"),
)

DIALECTS = {
    # Qwen3-Coder, Qwen3.5 and later, Nemotron 3.
    "qwen_xml": Tagged(
        ("<tool_call>", "</tool_call>"),
        *_PARAMETERS,
        one_block_each=True,
        needs_block=False,
        line_breaks=True,
        MARKS=("<function=", "</function>", "<parameter=", "</parameter>"),
        TEMPLATE_MARKS=("</parameter>",),
        VLLM_PARSER="qwen3_coder",
        FAMILIES="Qwen3-Coder, Qwen3.5 and later, Nemotron 3",
    ),
    "seed_oss": Tagged(
        ("<seed:tool_call>", "</seed:tool_call>"),
        *_PARAMETERS,
        one_block_each=True,
        MARKS=("<seed:tool_call>",),
        TEMPLATE_MARKS=("<seed:tool_call>",),
        VLLM_PARSER="seed_oss",
        FAMILIES="Seed-OSS",
    ),
    "minimax_m2": Tagged(
        ("<minimax:tool_call>", "</minimax:tool_call>"),
        *_INVOKE,
        MARKS=("<minimax:tool_call>",),
        TEMPLATE_MARKS=("<minimax:tool_call>",),
        VLLM_PARSER="minimax_m2",
        FAMILIES="MiniMax-M2",
    ),
    "invoke": Tagged(
        ("<function_calls>", "</function_calls>"),
        *_INVOKE,
        needs_block=False,
        MARKS=("<function_calls>", "<invoke name=", "</invoke>"),
        TEMPLATE_MARKS=("<function_calls>...<invoke name=",),
        FAMILIES="Claude, as many models have seen it",
    ),
    "atem": Tagged(
        ("<atem:function_calls>", "</atem:function_calls>"),
        ('<atem:invoke name="{}">', "</atem:invoke>"),
        ('<atem:parameter name="{}">', "</atem:parameter>"),
        MARKS=("<atem:function_calls>", "<atem:invoke"),
        TEMPLATE_MARKS=("<atem:function_calls>",),
        FAMILIES="Muse",
    ),
    # DeepSeek V3.2, and V4 with another name of the block.
    "dsml": Tagged(
        ("<｜DSML｜function_calls>", "</｜DSML｜function_calls>"),
        *_DSML,
        has_type=True,
        MARKS=("<｜DSML｜", "｜DSML｜"),
        TEMPLATE_MARKS=("｜DSML｜", "DSML...function_calls"),
        VLLM_PARSER="deepseek_v32",
        FAMILIES="DeepSeek V3.2",
    ),
    "dsml_v4": Tagged(
        ("<｜DSML｜tool_calls>", "</｜DSML｜tool_calls>"),
        *_DSML,
        has_type=True,
        TEMPLATE_MARKS=("｜DSML｜tool_calls",),
        VLLM_PARSER="deepseek_v4",
        FAMILIES="DeepSeek V4",
    ),
}
"""Dialects of this file by name."""
