"""Dialects of Python calls behind the mark of a family: `<|python_start|>[look_up(word="tree")]`.

One row of `DIALECTS` is one dialect. No code is evaluated.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from envgym.dialects.json_calls import EXAMPLE, read_blocks, refuse_long
from envgym.dialects.known import Known, is_near
from envgym.dialects.literals import (
    DOTTED_NAME,
    MalformedCall,
    excerpt,
    read_python_calls,
    write_python_call,
)
from envgym.messages import ToolCall

_LIST = re.compile(rf"\s*\[\s*({DOTTED_NAME})\(")
_CALL = re.compile(rf"\s*\[?\s*({DOTTED_NAME})\(")
_MOST_TRIES = 50


@dataclass(frozen=True)
class WrappedPython:
    """Dialect of Python calls between two marks."""

    opening: str
    closing: str
    is_list: bool = True
    """Whether the calls stand in a list; otherwise each stands on a line of its own."""
    needs_opening: bool = True
    """Whether the marks must be there. Without them a list must be the whole answer."""
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
        start = text.find(mark)
        if not self.needs_opening and (start < 0 or _LIST.match(text)):
            return self._read_alone(text, known)
        if start < 0:
            return None
        if not _CALL.match(text, start + len(mark)):
            return None
        return read_blocks(text, mark, self._read_block)

    def _read_alone(self, text: str, known: Known | None) -> tuple[list[ToolCall], str] | None:
        if not (start := _LIST.match(text)):
            return None
        try:
            refuse_long(text)
            return read_python_calls(text.strip(), json_words=True), ""
        except MalformedCall:
            if known is None or is_near(start.group(1), known):
                raise
            return None

    def _read_block(self, text: str, start: int) -> tuple[list[ToolCall], int]:
        """Return the calls after an opening mark, and the index after the closing one.

        A text in the call may hold the closing mark, so each of them is tried.
        """
        mark = self.closing.strip()
        problem = MalformedCall(f"after the call must come {mark}")
        end = start
        for _ in range(_MOST_TRIES):
            end = text.find(mark, end)
            if end < 0:
                break
            try:
                inner = text[start:end].strip()
                if self.is_list and not inner.startswith("["):
                    raise MalformedCall(f"write the calls as a list, got {excerpt(inner)}")
                return read_python_calls(inner, json_words=True), end + len(mark)
            except MalformedCall as error:
                problem = error
            end += len(mark)
        raise problem

    def write(self, call: ToolCall) -> str:
        """Return a call as text. Raises UsageError if Python syntax cannot express it."""
        return self.write_all([call])

    def write_all(self, calls: Sequence[ToolCall]) -> str:
        """Return several calls as text. Raises UsageError if the syntax cannot express one."""
        written = [write_python_call(call) for call in calls]
        inner = f"[{', '.join(written)}]" if self.is_list else "\n".join(written)
        return f"{self.opening}{inner}{self.closing}" if self.needs_opening else inner

    def example(self) -> str:
        """Return the instruction for the model."""
        return f"To call a tool, answer with:\n{self.write(EXAMPLE)}"


DIALECTS = {
    # Llama 3.2 and Llama 4 write the list alone; the marks are optional.
    "llama_pythonic": WrappedPython(
        "<|python_start|>",
        "<|python_end|>",
        needs_opening=False,
        MARKS=("<|python_start|>",),
        TEMPLATE_MARKS=("<|python_start|>", "[func_name1(params_name1=params_value1"),
        VLLM_PARSER="llama4_pythonic",
        FAMILIES="Llama 3.2, Llama 4",
    ),
    "lfm2": WrappedPython(
        "<|tool_call_start|>",
        "<|tool_call_end|>",
        MARKS=("<|tool_call_start|>", "<|tool_call_end|>"),
        TEMPLATE_MARKS=("<|tool_call_start|>", "<|tool_list_start|>"),
        VLLM_PARSER="lfm2",
        FAMILIES="LFM2, LFM2.5",
    ),
    "olmo3": WrappedPython(
        "<function_calls>",
        "</function_calls>",
        is_list=False,
        MARKS=("<function_calls>",),
        TEMPLATE_MARKS=("<function_calls>",),
        VLLM_PARSER="olmo3",
        FAMILIES="OLMo 3",
    ),
    # Gemma 3 and Gemini in code blocks.
    "tool_code": WrappedPython(
        "```tool_code\n",
        "\n```",
        is_list=False,
        MARKS=("```tool_code",),
        TEMPLATE_MARKS=("tool_code",),
        FAMILIES="Gemma 3, Gemini",
    ),
}
"""Dialects of this file by name."""
