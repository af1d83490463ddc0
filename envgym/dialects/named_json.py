"""Dialects of a name in marks and arguments as JSON: `<function=look_up>{...}</function>`.

One row of `DIALECTS` is one dialect.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from envgym.dialects.json_calls import EXAMPLE, dump, refuse_long
from envgym.dialects.known import Known
from envgym.dialects.literals import MalformedCall, excerpt, read_json
from envgym.errors import UsageError
from envgym.messages import ToolCall

NAME = r"(?P<name>[\w.\-]+)"
_NAME = re.compile(r"[\w.\-]+")


@dataclass(frozen=True)
class NamedJson:
    """Dialect of `before NAME between ARGUMENTS after`, in an optional section."""

    header: str
    """Pattern of all text before the arguments, with a group `name`."""
    after: str
    """Pattern of the text after the arguments; may be empty."""
    written: tuple[str, str, str]
    """Texts that are written before the name, before the arguments and after them. `{index}` is
    the number of the call."""
    section: tuple[str, str] = ("", "")
    """Marks around all calls."""
    between: str = ""
    """Text between two calls, as it is written."""
    FAMILIES: str = ""
    MARKS: tuple[str, ...] = ()
    TEMPLATE_MARKS: tuple[str, ...] = ()
    VLLM_PARSER: str | None = None

    def read(self, text: str, known: Known | None = None) -> tuple[list[ToolCall], str] | None:
        """Return the calls and the text around them, or None if the form is absent.

        Raises:
            MalformedCall: If the text attempts a call that cannot be parsed.
        """
        header = re.compile(self.header)
        if not header.search(text):
            return None
        refuse_long(text)
        opening, closing = self.section
        calls: list[ToolCall] = []
        around: list[str] = []
        end = 0
        while start := header.search(text, end):
            around.append(text[end : start.start()])
            call, end = self._read_call(text, start)
            calls.append(call)
        around.append(text[end:])
        if opening and (opening in around[0]) != (closing in around[-1]):
            raise MalformedCall(f"write all calls between {opening} and {closing}")
        around[0] = around[0].replace(opening, "", 1) if opening else around[0]
        around[-1] = around[-1].replace(closing, "", 1) if closing else around[-1]
        return calls, "".join(around).strip()

    def _read_call(self, text: str, header: re.Match[str]) -> tuple[ToolCall, int]:
        name = header.group("name") or header.group("first")
        arguments, end = read_json(text, header.end())
        if not isinstance(arguments, dict):
            raise MalformedCall(
                f"the arguments of {name} must be an object, got {excerpt(text[header.end() :])}"
            )
        after = re.compile(self.after).match(text, end)
        if after is None:
            wanted = self.written[2].strip()
            got = excerpt(text[end:]) or "the end"
            raise MalformedCall(f"after the arguments must come {wanted}, got {got}")
        return ToolCall(name, arguments), after.end()

    def write(self, call: ToolCall) -> str:
        """Return a call as text. Raises UsageError if the syntax cannot express it."""
        return self.write_all([call])

    def write_all(self, calls: Sequence[ToolCall]) -> str:
        """Return several calls as text. Raises UsageError if the syntax cannot express one."""
        written = [self._write(call, index) for index, call in enumerate(calls)]
        return f"{self.section[0]}{self.between.join(written)}{self.section[1]}"

    def _write(self, call: ToolCall, index: int) -> str:
        if not _NAME.fullmatch(call.name):
            raise UsageError(
                f"a tool named '{call.name}' cannot be called in this dialect; "
                "rename it or use another dialect"
            )
        before, middle, after = (part.replace("{index}", str(index)) for part in self.written)
        return f"{before}{call.name}{middle}{dump(call.arguments, call.name)}{after}"

    def example(self) -> str:
        """Return the instruction for the model."""
        return f"To call a tool, answer with:\n{self.write(EXAMPLE)}"


_DEEPSEEK = ("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>")

DIALECTS = {
    # Llama 3.1 with own tools, Functionary 3.1.
    "llama_function": NamedJson(
        rf"<function={NAME}>\s*(?=\{{)",
        r"</function>",
        ("<function=", ">", "</function>"),
        between="\n",
        MARKS=("<function=", "</function>"),
        TEMPLATE_MARKS=("<function=example_function_name>{",),
        FAMILIES="Llama 3.1 with own tools, Functionary 3.1",
    ),
    # Mistral Small 3.2, Devstral, Magistral and later.
    "mistral_args": NamedJson(
        rf"\[TOOL_CALLS\]\s*{NAME}(?:\[CALL_ID\]\w*)?(?:\[ARGS\])?\s*(?=\{{)",
        r"",
        ("[TOOL_CALLS]", "[ARGS]", ""),
        MARKS=("[TOOL_CALLS]", "[ARGS]"),
        TEMPLATE_MARKS=("[TOOL_CALLS]...[ARGS]",),
        VLLM_PARSER="mistral",
        FAMILIES="Mistral Small 3.2, Devstral, Magistral, Ministral 3",
    ),
    # DeepSeek V3 and R1.
    "deepseek_v3": NamedJson(
        rf"<｜tool▁call▁begin｜>function<｜tool▁sep｜>{NAME}\s*```(?:json)?\s*(?=\{{)",
        r"```\s*<｜tool▁call▁end｜>",
        ("<｜tool▁call▁begin｜>function<｜tool▁sep｜>", "\n```json\n", "\n```<｜tool▁call▁end｜>"),
        section=_DEEPSEEK,
        between="\n",
        MARKS=(*_DEEPSEEK, "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>"),
        TEMPLATE_MARKS=("tool['type'] + '<｜tool▁sep｜>'", "function<｜tool▁sep｜>"),
        VLLM_PARSER="deepseek_v3",
        FAMILIES="DeepSeek V3, R1",
    ),
    "deepseek_v31": NamedJson(
        rf"<｜tool▁call▁begin｜>(?!function<｜tool▁sep｜>){NAME}<｜tool▁sep｜>\s*(?=\{{)",
        r"<｜tool▁call▁end｜>",
        ("<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"),
        section=_DEEPSEEK,
        MARKS=(*_DEEPSEEK, "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>"),
        TEMPLATE_MARKS=("<｜tool▁sep｜>",),
        VLLM_PARSER="deepseek_v31",
        FAMILIES="DeepSeek V3.1",
    ),
    "kimi_k2": NamedJson(
        r"<\|tool_call_begin\|>\s*(?:functions\.)?(?P<name>[\w.\-]+?)(?::\d+)?\s*"
        r"<\|tool_call_argument_begin\|>\s*(?=\{)",
        r"<\|tool_call_end\|>",
        (
            "<|tool_call_begin|>functions.",
            ":{index}<|tool_call_argument_begin|>",
            "<|tool_call_end|>",
        ),
        section=("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"),
        MARKS=("<|tool_calls_section_begin|>", "<|tool_call_begin|>"),
        TEMPLATE_MARKS=("<|tool_call_argument_begin|>",),
        VLLM_PARSER="kimi_k2",
        FAMILIES="Kimi K2",
    ),
    # Functionary 3.2. The prompt opens the first block.
    "functionary": NamedJson(
        rf"(?:\A|>>>){NAME}\n(?=\{{)",
        r"",
        (">>>", "\n", ""),
        between="\n",
        TEMPLATE_MARKS=(">>>all",),
        FAMILIES="Functionary 3.2",
    ),
    # gpt-oss. The recipient may stand before or after the channel.
    "harmony": NamedJson(
        r"(?:<\|start\|>\s*assistant)?\s{0,9}"
        r"(?:to=functions\.(?P<first>[\w.\-]+)\s*<\|channel\|>\s*\w+"
        r"|(?:<\|channel\|>\s*)?(?:\b\w{1,20}\s{1,9})?to=functions\.(?P<name>[\w.\-]+))"
        r"\s*(?:(?:<\|constrain\|>)?\s*json)?\s*(?:<\|message\|>)?\s*(?=\{)",
        r"(?:<\|call\|>)?",
        (
            "<|channel|>commentary to=functions.",
            " <|constrain|>json<|message|>",
            "<|call|>",
        ),
        between="<|start|>assistant",
        MARKS=("to=functions.", "<|constrain|>"),
        TEMPLATE_MARKS=("to=functions.", "<|channel|>...functions."),
        VLLM_PARSER="openai",
        FAMILIES="gpt-oss",
    ),
}
"""Dialects of this file by name."""
