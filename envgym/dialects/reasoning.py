"""Split the reasoning of a model from its answer.

Reasoning stands between the marks of a family (`<think>`, `[THINK]`, channels of gpt-oss and so
on). A closing mark without an opening one means that the prompt has opened the reasoning. Reasoning
that is not closed has no answer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

PAIRS = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),
    ("<mm:think>", "</mm:think>"),
    ("<longcat_think>", "</longcat_think>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|inner_prefix|>", "<|inner_suffix|>"),
    ("<|channel>thought", "<channel|>"),
    ("<unused94>thought", "<unused95>"),
    ("Here are my reasoning steps:", "[BEGIN FINAL RESPONSE]"),
)
"""Opening and closing marks: Qwen3, DeepSeek-R1, GLM, Kimi and many more; Exaone; Seed-OSS;
MiniMax; LongCat; Magistral; Kimi-VL; Command; Sky-T1; Apertus; Gemma 4; MedGemma; Apriel."""
_WORDS = {"Here are my reasoning steps:"}
"""Openings that are ordinary words. They open reasoning only if it is closed."""
_CLOSING = dict(PAIRS)
_OPENING = {closing: opening for opening, closing in PAIRS}


def _one_of(marks: tuple[str, ...]) -> str:
    return "|".join(re.escape(mark) for mark in sorted(marks, key=len, reverse=True))


_STARTS_OPEN = re.compile(rf"\s*({_one_of(tuple(_CLOSING))})")
_CLOSES = re.compile(_one_of(tuple(_OPENING)))
_OPENS = re.compile(_one_of(tuple(_CLOSING)))
_ALL_MARKS = (*_CLOSING, *_OPENING)
_AT_LINE_START = re.compile(r"(?:^|\n)[ \t]*\Z")

# Harmony (gpt-oss): `<|channel|>analysis<|message|>...<|end|>`, calls have a recipient.
_CHANNEL = re.compile(
    r"(?:<\|start\|>[^<]*|\A\s*(?:assistant)?\s*to=[^<]*)?"
    r"<\|channel\|>\s*(?P<channel>\w+)[^<]*"
    r"(?:<\|constrain\|>[^<]*)?<\|message\|>"
)
_CHANNEL_END = re.compile(r"<\|(?:end|return|call)\|>|(?=<\|start\|>)|(?=<\|channel\|>)|\Z")
_BARE_CHANNEL = re.compile(r"\s*analysis(.*?)assistant(final|(?=commentary to=))", re.DOTALL)
"""The same text if a server has removed the special tokens."""


@dataclass(frozen=True, slots=True)
class Split:
    """Reasoning and answer of one text."""

    reasoning: str
    """Text of the reasoning without its marks; several parts are joined by an empty line."""
    answer: str
    """Text without the reasoning. Without any mark it is the whole text, unchanged."""
    missing: str = ""
    """Closing mark that the reasoning lacks, if it is not closed."""


def split_reasoning(text: str) -> tuple[str, str]:
    """Return the reasoning and the answer of a text.

    >>> split_reasoning("Is it 7?</think>No.")
    ('Is it 7?', 'No.')
    >>> split_reasoning("<think>Is it 7?")
    ('Is it 7?', '')
    """
    split = split_marks(text)
    return split.reasoning, split.answer


def without_reasoning(text: str) -> str:
    """Return an answer without its reasoning, for the parts of a reward.

    >>> without_reasoning("<think>Is it 7?</think>No."), without_reasoning("<think>Is it 7?")
    ('No.', '')
    """
    return split_marks(text).answer


def has_reasoning_mark(text: str) -> bool:
    """Return whether a text holds an opening or closing mark of reasoning."""
    return bool(_has_mark(text) or _has_channel(text) or _BARE_CHANNEL.match(text))


def _has_mark(text: str) -> bool:
    return any(mark in text for mark in _ALL_MARKS)


def _has_channel(text: str) -> bool:
    return "<|channel|>" in text and bool(_CHANNEL.search(text))


def split_opening(text: str) -> Split:
    """Split the reasoning at the start of a text only, if its opening mark stands there."""
    thoughts: list[str] = []
    rest = text
    while opened := _STARTS_OPEN.match(rest):
        closing = _CLOSING[opened.group(1)]
        end = rest.find(closing, opened.end())
        if end < 0:
            if opened.group(1) in _WORDS:
                break
            return Split(_joined([*thoughts, rest[opened.end() :]]), "", closing)
        thoughts.append(rest[opened.end() : end])
        rest = rest[end + len(closing) :].lstrip()
    return Split(_joined(thoughts), rest if thoughts else text)


def split_marks(text: str) -> Split:
    """Split all reasoning of a text."""
    if _has_channel(text):
        return _split_channels(text)
    if bare := _BARE_CHANNEL.match(text):
        return Split(bare.group(1).strip(), text[bare.end() :].lstrip())
    first = split_opening(text)
    if first.missing or not _has_mark(first.answer):
        return first
    thoughts = [first.reasoning] if first.reasoning else []
    rest = first.answer
    if not thoughts and (end := _lone_closing(rest)):
        thoughts.append(rest[: end.start()])
        rest = rest[end.end() :].lstrip()
    inner, rest, missing = _split_inside(rest)
    thoughts += inner
    return Split(_joined(thoughts), rest, missing) if thoughts else first


def _lone_closing(text: str) -> re.Match[str] | None:
    """Return the first closing mark, if its opening mark does not stand before it."""
    for end in _CLOSES.finditer(text):
        if _OPENING[end.group()] not in text[: end.start()]:
            return end
    return None


def _split_inside(text: str) -> tuple[list[str], str, str]:
    """Return the reasoning inside a text, the text around it, and the missing closing mark."""
    thoughts: list[str] = []
    around: list[str] = []
    at = 0
    for opened in _OPENS.finditer(text):
        if opened.start() < at:
            continue
        closing = _CLOSING[opened.group()]
        end = text.find(closing, opened.end())
        if end >= 0:
            around.append(text[at : opened.start()])
            thoughts.append(text[opened.end() : end])
            at = end + len(closing)
        elif opened.group() not in _WORDS and _AT_LINE_START.search(text[at : opened.start()]):
            around.append(text[at : opened.start()])
            return [*thoughts, text[opened.end() :]], "".join(around).rstrip(), closing
    return thoughts, "".join([*around, text[at:]]), ""


def _split_channels(text: str) -> Split:
    """Split the channels of gpt-oss: `analysis` is reasoning, calls stay as they are."""
    thoughts: list[str] = []
    around: list[str] = []
    missing = ""
    at = 0
    while header := _CHANNEL.search(text, at):
        around.append(text[at : header.start()])
        end = _CHANNEL_END.search(text, header.end())
        stop = end.start() if end else len(text)
        after = end.end() if end else len(text)
        body = text[header.end() : stop]
        if "to=" in header.group():
            around.append(text[header.start() : after])
        elif header.group("channel") == "analysis":
            thoughts.append(body)
            missing = "<|end|>" if stop == after == len(text) else ""
        else:
            around.append(body)
        at = after
    answer = "".join([*around, text[at:]])
    return Split(_joined(thoughts), answer.strip(), missing)


def _joined(thoughts: list[str]) -> str:
    return "\n\n".join(thought.strip() for thought in thoughts if thought.strip())
