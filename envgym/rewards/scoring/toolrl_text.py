"""ToolRL's answer as text: where it lies in a transcript, whether its tags are in order, how long its thought is.

    <think> ... </think>
    <tool_call>
    {"name": "look_up", "parameters": {"word": "tree"}}
    </tool_call>
    <response> ... </response>

What stands in the tags is for `toolrl_match.py`. Source: ToolRL, arXiv 2504.13958, and its code at commit 8cee13e.
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
"""Chat template -> what stands before an assistant's text, and what ends it."""
TOOL_CALL = ("<tool_call>", "</tool_call>")
RESPONSE = ("<response>", "</response>")
THINK = ("<think>", "</think>")


def assistant_text(transcript: str, *, template: ChatTemplate | None = None) -> str:
    """The assistant's text, outer white space removed.

    Args:
        transcript: a completion, or a whole dialogue with its special tokens.
        template: None takes all of it, as a policy's completion has no headers. `qwen` and `llama` take what follows the last
            assistant header, up to the first end marker; all of it where there is no header. The reference picks one of them by
            `EXPERIMENT_NAME`, and cuts completions likewise: a header that the model itself wrote counts.
    Raises: UsageError for an unknown template.
    """
    if template is None:
        return transcript.strip()
    if template not in TEMPLATES:
        raise UsageError(
            f"template is '{template}'{did_you_mean(template, TEMPLATES)}; available: {', '.join(TEMPLATES)}"
        )
    header, end = TEMPLATES[template]
    return transcript.rpartition(header)[2].partition(end)[0].strip()


def format_score(text: str, truth: str) -> float:
    """1.0 when the answer has the tags that the truth has, in order and once each; else 0.0.

    Which tags are due is read off the truth: `<tool_call>`, `<response>`, both or neither, always after a thought. Each is joined
    to the next by a single line break, and nothing stands before or after. What the tags hold is not looked at; thoughts may
    hold further think tags.

    Source: ToolRL, section 3.3 (format reward), and `customize_format_reward_func` of its code.
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
    """How long the thought is against `target`: rounded to hundredths, at most 1.0; 0.0 where a think tag is missing.

    Args:
        target: words (split at white space) that earn everything.
    Raises: UsageError for a target that is not above 0.
    Source: ToolRL, section 4.3 (length reward), and `customize_length_reward_func` of its code: the thought runs from the last
        `<think>` to the next `</think>`, or to the end where that one stands before it.
    """
    if target <= 0:
        raise UsageError(f"target is {target:g} words; a length reward needs one above 0")
    if any(tag not in text for tag in THINK):
        return 0.0
    thought = text.rpartition(THINK[0])[2].partition(THINK[1])[0]
    return min(1.0, round(len(thought.split()) / target, 2))


def call_lines(text: str) -> list[str]:
    """The lines of the first `<tool_call>` block: up to the next `</tool_call>` or `<tool_call>`, or the end; [] without one."""
    opening, closing = TOOL_CALL
    if opening not in text:
        return []
    block = text.split(opening, 2)[1].partition(closing)[0]
    return block.strip().split("\n")
