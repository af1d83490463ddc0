"""ToolRL's answer as text: its position in a transcript, the order of its tags, its thought.

    <think> ... </think>
    <tool_call>
    {"name": "look_up", "parameters": {"word": "tree"}}
    </tool_call>
    <response> ... </response>

See `toolrl_match.py` for the calls. Source: arXiv 2504.13958, and its code at commit 8cee13e.
"""

from __future__ import annotations

import re
from typing import Literal

from envgym.errors import UsageError, did_you_mean

ChatTemplate = Literal["qwen", "llama"]
TEMPLATES = {
    "qwen": ("<|im_start|>assistant", "<|im_end|>"),
    "llama": ("<|start_header_id|>assistant<|end_header_id|>", "<|eot_id|>"),
}
"""Chat template -> header of an assistant message and its end marker."""
TOOL_CALL = ("<tool_call>", "</tool_call>")
RESPONSE = ("<response>", "</response>")
THINK = ("<think>", "</think>")


def assistant_text(transcript: str, *, template: ChatTemplate | None = None) -> str:
    """Return the assistant's text without outer white space.

    Args:
        transcript: A completion, or a whole dialogue with its special tokens.
        template: `None` returns the whole text, because a completion has no headers. `qwen` and
            `llama` return the text between the last assistant header and the next end marker, or
            the whole text if there is no header. The reference selects one by `EXPERIMENT_NAME` and
            applies it to completions too, so a header that the model wrote counts.

    Raises:
        UsageError: If the template is unknown.
    """
    if template is None:
        return transcript.strip()
    if template not in TEMPLATES:
        raise UsageError(
            f"template is '{template}'{did_you_mean(template, TEMPLATES)}; "
            f"available: {', '.join(TEMPLATES)}"
        )
    header, end = TEMPLATES[template]
    return transcript.rpartition(header)[2].partition(end)[0].strip()


def format_score(text: str, truth: str) -> float:
    """Return 1.0 if the answer has the truth's tags once and in order, otherwise 0.0.

    The truth determines the required tags: `<tool_call>`, `<response>`, both or neither, always
    after a thought. Blocks are separated by a single line break, without text before or after them.
    Their content is ignored, and a thought may contain further think tags.

    References:
        ToolRL, section 3.3 (format reward); `customize_format_reward_func` of its code.
    """
    text = text.strip()
    has_call = TOOL_CALL[0] in truth
    has_response = RESPONSE[0] in truth
    due = [*(TOOL_CALL if has_call else ()), *(RESPONSE if has_response else ())]
    if any(text.count(tag) != 1 for tag in due):
        return 0.0
    blocks = [r"<think>.*?</think>"]
    blocks += [r"<tool_call>\n.*?\n</tool_call>"] if has_call else []
    blocks += [r"<response>.*?</response>"] if has_response else []
    return float(re.fullmatch(r"\n".join(blocks), text, re.DOTALL) is not None)


def length_score(text: str, *, target: float = 512.0) -> float:
    """Return the length of the thought divided by `target`, rounded to hundredths, at most 1.0.

    As in the reference, the thought runs from the last `<think>` to the next `</think>`, or to the
    end of the text if there is none after it.

    Args:
        target: Number of words (split at white space) that earn 1.0.

    Returns:
        Score from 0.0 to 1.0; 0.0 if a think tag is missing.

    Raises:
        UsageError: If the target is not above 0.

    References:
        ToolRL, section 4.3 (length reward); `customize_length_reward_func` of its code.
    """
    if target <= 0:
        raise UsageError(f"target is {target:g} words, but it must be above 0")
    if any(tag not in text for tag in THINK):
        return 0.0
    thought = text.rpartition(THINK[0])[2].partition(THINK[1])[0]
    return min(1.0, round(len(thought.split()) / target, 2))


def call_lines(text: str) -> list[str]:
    """Return the lines of the first `<tool_call>` block; an empty list if there is no block.

    The block ends at the next `</tool_call>` or `<tool_call>`, or at the end of the text.
    """
    opening, closing = TOOL_CALL
    if opening not in text:
        return []
    block = text.split(opening, 2)[1].partition(closing)[0]
    return block.strip().split("\n")
