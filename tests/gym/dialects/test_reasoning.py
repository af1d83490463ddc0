"""Reasoning is kept apart from the answer and from calls, in the marks of every family."""

import pytest

from envgym.dialects import DEFAULT_DIALECTS, parse, split_reasoning, without_reasoning
from envgym.dialects.reasoning import PAIRS
from envgym.messages import ToolCall

CALL = '<tool_call>{"name": "set_v", "arguments": {"id": "a", "value": 9}}</tool_call>'
SET = ToolCall("set_v", {"id": "a", "value": 9})


@pytest.mark.parametrize(("opening", "closing"), PAIRS)
def test_no_call_is_made_from_reasoning(opening, closing):
    for text in (f"{opening}Or {CALL}?{closing}\n\nNo.", f"Or {CALL}?\n{closing}\n\nNo."):
        parsed = parse(text, known=["set_v"])
        assert (parsed.mode, parsed.content, parsed.reasoning) == ("none", "No.", f"Or {CALL}?")
        assert split_reasoning(text) == (f"Or {CALL}?", "No.")
        assert without_reasoning(text) == "No."


@pytest.mark.parametrize(("opening", "closing"), PAIRS)
def test_a_call_after_reasoning_is_made(opening, closing):
    for text in (f"{opening}Set it.{closing}{CALL}", f"Set it.{closing}\n{CALL}"):
        parsed = parse(text, ["hermes"], known=["set_v"])
        assert (parsed.calls, parsed.content, parsed.reasoning) == ((SET,), "", "Set it.")


@pytest.mark.parametrize("opening", [opening for opening, _ in PAIRS if " " not in opening])
def test_reasoning_that_is_not_closed_has_no_answer_and_no_calls(opening):
    text = f"{opening}Is it 7? {CALL}"
    assert split_reasoning(text) == (f"Is it 7? {CALL}", "")
    parsed = parse(text, known=["set_v"])
    assert parsed.mode == "invalid"
    assert "not closed with" in parsed.problem


@pytest.mark.parametrize(
    ("text", "reasoning", "answer"),
    [
        ("No marks.", "", "No marks."),
        ("  spaces stay \n", "", "  spaces stay \n"),
        ("", "", ""),
        ("<think></think>Yes.", "", "Yes."),
        ("<think>\n\n</think>\n\nYes.", "", "Yes."),
        ("<think>a</think><think>b</think>Yes.", "a\n\nb", "Yes."),
        ("a</think>One.\n<think>b</think> Two.", "a\n\nb", "One.\n Two."),
        ("One. <think>b</think>Two.", "b", "One. Two."),
        ("One.\n<think>and then", "and then", "One."),
        ("I wrote <think> into the file.", "", "I wrote <think> into the file."),
        ("<think>a</think>I wrote </think>.", "a", "I wrote </think>."),
        ("Here are my reasoning steps: none.", "", "Here are my reasoning steps: none."),
        ("<|channel|>analysis<|message|>a<|end|>", "a", ""),
        ("<|channel|>analysis<|message|>a", "a", ""),
        (
            "<|channel|>analysis<|message|>a<|end|>"
            "<|start|>assistant<|channel|>final<|message|>Yes.",
            "a",
            "Yes.",
        ),
        ("<|channel|>final<|message|>Yes.<|return|>", "", "Yes."),
        ("analysisIs it 7?assistantfinalYes.", "Is it 7?", "Yes."),
        ("analysis of the data: assistants agree", "", "analysis of the data: assistants agree"),
    ],
)
def test_the_parts_of_a_text(text, reasoning, answer):
    assert split_reasoning(text) == (reasoning, answer)


@pytest.mark.parametrize(
    "call",
    [
        '<tool_call>{"name": "write", "arguments": {"text": "a </think> b"}}</tool_call>',
        '{"name": "write", "arguments": {"text": "a </think> b"}}',
        'write(text="a </think> b")',
        '```json\n{"name": "write", "arguments": {"text": "a </think> b"}}\n```',
    ],
)
def test_a_mark_inside_an_argument_ends_no_reasoning(call):
    wanted = (ToolCall("write", {"text": "a </think> b"}),)
    assert parse(call).calls == wanted
    assert parse(f"<think>hm</think>{call}").calls == wanted


def test_a_mark_beside_a_call_is_not_inside_of_it():
    parsed = parse(f"I could send {CALL}, but the user did not ask.\n</think>\n\nNothing to do.")
    assert (parsed.mode, parsed.content) == ("none", "Nothing to do.")


@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    "piece", ["<think>", "</think>", "<think></think>", "\n<think>x", "<|channel|>", "[THINK]a"]
)
def test_many_marks_are_split_quickly(piece):
    split_reasoning(piece * 20_000)
    parse((piece * 20_000)[:150_000], DEFAULT_DIALECTS, known=["f"])
