"""Dialects of JSON behind the mark of a family: `<|tool_call|>[{...}]`, `[TOOL_CALLS][{...}]`, ...

One row of `DIALECTS` is one dialect. They differ in the marks, in the keys of the object, and in
the form of several calls.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from envgym.dialects.json_calls import (
    EXAMPLE,
    call_from,
    dump,
    is_broken_call,
    read_blocks,
    refuse_long,
)
from envgym.dialects.known import Known, is_near
from envgym.dialects.literals import MalformedCall, excerpt, read_json
from envgym.messages import ToolCall

_STARTS_LIKE_JSON = re.compile(r"\s*(?:\{|\[\s*\{)")


@dataclass(frozen=True)
class WrappedJson:
    """Dialect of JSON objects between two marks."""

    opening: str
    """Mark before the JSON as it is written; white space at its ends may be missing."""
    closing: str = ""
    """Mark after the JSON; without one, the JSON ends the answer."""
    form: Literal["list", "lines", "one"] = "list"
    """`list`: one list of objects. `lines`: one or more objects, one a line. `one`: one object, and
    a block for each call."""
    name_key: str = "name"
    arguments_key: str = "arguments"
    id_key: str = ""
    """Key that is written before the name and counts the calls."""
    ignored: tuple[str, ...] = ("id",)
    """Further keys that an object may have."""
    begin: str = ""
    """Text between the opening mark and the first object, as it is written."""
    between: str = ", "
    """Text between two objects, as it is written."""
    end: str = ""
    """Text between the last object and the closing mark, as it is written."""
    needs_opening: bool = True
    """Whether the opening mark must be there. Otherwise it is not written, and without it the JSON
    must be the whole answer."""
    FAMILIES: str = ""
    MARKS: tuple[str, ...] = ()
    TEMPLATE_MARKS: tuple[str, ...] = ()
    VLLM_PARSER: str | None = None

    def read(self, text: str, known: Known | None = None) -> tuple[list[ToolCall], str] | None:
        """Return the calls and the text around them, or None if the form is absent.

        Raises:
            MalformedCall: If the text attempts a call that cannot be parsed.
        """
        mark = self.opening.strip()
        at = text.find(mark) if mark else -1
        if not self.needs_opening and (at < 0 or _STARTS_LIKE_JSON.match(text)):
            return self._read_alone(text, known)
        if at < 0:
            return None
        if not _STARTS_LIKE_JSON.match(text, at + len(mark)):
            return None
        return read_blocks(text, mark, self._read_block)

    def _read_alone(self, text: str, known: Known | None) -> tuple[list[ToolCall], str] | None:
        """Read an answer that is nothing but the JSON."""
        if not _STARTS_LIKE_JSON.match(text):
            return None
        try:
            refuse_long(text)
            value, _ = read_json(text, 0)
        except MalformedCall:
            if is_broken_call(text, known):
                raise
            return None
        if not self._is_call(value, known):
            return None
        return self._read_block(text, 0)[0], ""

    def _is_call(self, value: Any, known: Known | None) -> bool:
        first = value[0] if isinstance(value, list) and value else value
        if not isinstance(first, dict) or not isinstance(first.get(self.name_key), str):
            return False
        if isinstance(value, list) != (self.form == "list"):
            return False
        if known is not None and is_near(first[self.name_key], known):
            return True
        return isinstance(first.get(self.arguments_key), dict)

    def _read_block(self, text: str, start: int) -> tuple[list[ToolCall], int]:
        """Return the calls after an opening mark, and the index after the closing one."""
        value, end = read_json(text, start)
        values = [value]
        if self.form == "list":
            if not isinstance(value, list) or not value:
                raise MalformedCall(f"after {self._mark()} must come a list of calls")
            values = value
        while self.form == "lines" and text.startswith("{", self._next(text, end)):
            value, end = read_json(text, self._next(text, end))
            values.append(value)
        calls = [self._call(each) for each in values]
        if not self.closing.strip():
            if end < len(text) and not text.startswith(self.opening.strip() or "\0", end):
                raise MalformedCall(f"write nothing after the call, got: {excerpt(text[end:])}")
            return calls, end
        if not text.startswith(self.closing.strip(), end):
            raise MalformedCall(
                f"after the JSON of a call must come {self.closing.strip()}, "
                f"got {excerpt(text[end:]) or 'the end'}"
            )
        return calls, end + len(self.closing.strip())

    def _next(self, text: str, end: int) -> int:
        """Return the index after the text between two objects."""
        between = self.between.strip()
        if between and text.startswith(between, end):
            end += len(between)
        return end + len(text[end:]) - len(text[end:].lstrip())

    def _call(self, value: Any) -> ToolCall:
        ignored = (*self.ignored, self.id_key)
        return call_from(value, name=self.name_key, arguments=self.arguments_key, ignored=ignored)

    def _mark(self) -> str:
        return self.opening.strip() or "the start"

    def write(self, call: ToolCall) -> str:
        """Return a call as text. Raises UsageError if JSON cannot express it."""
        return self.write_all([call])

    def write_all(self, calls: Sequence[ToolCall]) -> str:
        """Return several calls as text. Raises UsageError if JSON cannot express one."""
        written = [self._object(call, index) for index, call in enumerate(calls)]
        if self.form == "one":
            blocks = [
                f"{self.opening}{self.begin}{each}{self.end}{self.closing}" for each in written
            ]
            return self.between.join(blocks)
        inner = self.between.join(written)
        opening = self.opening if self.needs_opening else ""
        brackets = ("[", "]") if self.form == "list" else ("", "")
        return f"{opening}{brackets[0]}{self.begin}{inner}{self.end}{brackets[1]}{self.closing}"

    def _object(self, call: ToolCall, index: int) -> str:
        counted = {self.id_key: str(index)} if self.id_key else {}
        value = counted | {self.name_key: call.name, self.arguments_key: call.arguments}
        return dump(value, call.name)

    def example(self) -> str:
        """Return the instruction for the model."""
        return f"To call a tool, answer with:\n{self.write(EXAMPLE)}"


DIALECTS = {
    # Granite 3.0 to 3.3. Granite 4 writes hermes.
    "granite": WrappedJson(
        "<|tool_call|>",
        MARKS=("<|tool_call|>",),
        TEMPLATE_MARKS=("<|tool_call|>",),
        VLLM_PARSER="granite",
        FAMILIES="Granite 3.2 and 3.3",
    ),
    "granite_list": WrappedJson(
        "<tool_call>",
        VLLM_PARSER="granite",
        FAMILIES="Granite 3.1",
    ),
    "granite_20b": WrappedJson(
        "<function_call> ",
        form="one",
        between="",
        MARKS=("<function_call>",),
        TEMPLATE_MARKS=("<function_call>",),
        VLLM_PARSER="granite-20b-fc",
        FAMILIES="Granite 20B function calling",
    ),
    "phi4": WrappedJson(
        "<|tool_call|>",
        "<|/tool_call|>",
        MARKS=("<|tool_call|>", "<|/tool_call|>"),
        TEMPLATE_MARKS=("<|/tool_call|>",),
        VLLM_PARSER="granite",
        FAMILIES="Phi-4-mini",
    ),
    "phi4_object": WrappedJson(
        "<|tool_call|>",
        "<|/tool_call|>",
        form="one",
        between="",
        TEMPLATE_MARKS=("<|tool_call|>{",),
        FAMILIES="Phi-4-mini with the template of llama.cpp",
    ),
    # vLLM's phi4_mini_json loses a call with a list in its arguments.
    "functools": WrappedJson(
        "functools",
        MARKS=("functools[",),
        TEMPLATE_MARKS=("functools[",),
        FAMILIES="Phi-4-mini and others with functools",
    ),
    "nemotron": WrappedJson(
        "<TOOLCALL>",
        "</TOOLCALL>",
        MARKS=("<TOOLCALL>",),
        TEMPLATE_MARKS=("<TOOLCALL>",),
        FAMILIES="Nemotron Nano v2, Llama-Nemotron",
    ),
    # Hunyuan A13B and Jamba.
    "hunyuan": WrappedJson(
        "<tool_calls>",
        "</tool_calls>",
        MARKS=("<tool_calls>", "</tool_calls>"),
        TEMPLATE_MARKS=("<tool_calls>[",),
        VLLM_PARSER="hunyuan_a13b",
        FAMILIES="Hunyuan A13B, Jamba",
    ),
    "minimax_m1": WrappedJson(
        "<tool_calls>",
        "</tool_calls>",
        form="lines",
        begin="\n",
        between="\n",
        end="\n",
        MARKS=("<tool_calls>", "</tool_calls>"),
        TEMPLATE_MARKS=("<tool_calls>",),
        FAMILIES="MiniMax-M1",
    ),
    # vLLM's parser reads one call an answer.
    "internlm": WrappedJson(
        "<|action_start|><|plugin|>",
        "<|action_end|>",
        form="one",
        arguments_key="parameters",
        begin="\n",
        between="",
        MARKS=("<|action_start|>", "<|plugin|>"),
        TEMPLATE_MARKS=("<|plugin|>",),
        VLLM_PARSER="internlm",
        FAMILIES="InternLM 2.5",
    ),
    # Llama 3.1 and 3.2 write the object alone; <|python_tag|> is optional.
    "llama_json": WrappedJson(
        "<|python_tag|>",
        form="lines",
        arguments_key="parameters",
        ignored=("type",),
        between="; ",
        needs_opening=False,
        MARKS=("<|python_tag|>",),
        TEMPLATE_MARKS=("<|python_tag|>", '"parameters": dictionary of argument name'),
        VLLM_PARSER="llama3_json",
        FAMILIES="Llama 3.1 to 3.3",
    ),
    "xlam": WrappedJson(
        "",
        needs_opening=False,
        VLLM_PARSER="xlam",
        FAMILIES="xLAM",
    ),
    # Command R7B and Command A.
    "command": WrappedJson(
        "<|START_ACTION|>",
        "<|END_ACTION|>",
        name_key="tool_name",
        arguments_key="parameters",
        id_key="tool_call_id",
        begin="\n    ",
        between=",\n    ",
        end="\n",
        MARKS=("<|START_ACTION|>", "<|END_ACTION|>"),
        TEMPLATE_MARKS=("<|START_ACTION|>",),
        VLLM_PARSER="cohere_command3",
        FAMILIES="Command R7B, Command A",
    ),
    # Command R and R+.
    "command_r": WrappedJson(
        "Action: ```json\n",
        "```",
        name_key="tool_name",
        arguments_key="parameters",
        begin="\n    ",
        between=",\n    ",
        end="\n",
        MARKS=("Action: ```json", "Action:```json"),
        TEMPLATE_MARKS=("Action: ```json", "Action:```json"),
        FAMILIES="Command R, Command R+",
    ),
    # Mistral up to version 7 of its tokenizer; later ones, and vLLM, use `mistral_args`.
    "mistral": WrappedJson(
        "[TOOL_CALLS]",
        MARKS=("[TOOL_CALLS]",),
        TEMPLATE_MARKS=("[TOOL_CALLS]",),
        FAMILIES="Mistral 7B v0.3, Nemo, Small 3.1",
    ),
    "longcat": WrappedJson(
        "<longcat_tool_call>",
        "</longcat_tool_call>",
        form="one",
        begin="\n",
        between="\n",
        end="\n",
        MARKS=("<longcat_tool_call>",),
        TEMPLATE_MARKS=("<longcat_tool_call>",),
        VLLM_PARSER="longcat",
        FAMILIES="LongCat Flash",
    ),
}
"""Dialects of this file by name."""
