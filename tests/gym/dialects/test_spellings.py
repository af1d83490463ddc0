"""Recorded spellings of calls are read or reported, and plain answers stay answers."""

from pathlib import Path

import pytest
import yaml

from envgym.dialects import DEFAULT_DIALECTS, dialect_names, parse, usage_example
from envgym.messages import ToolCall

FOLDER = Path(__file__).parent / "spellings"
SPELLINGS = yaml.safe_load((FOLDER / "calls.yaml").read_text())
ANSWERS = yaml.safe_load((FOLDER / "answers.yaml").read_text())
TOOLS = ["set_v", "look_up"]
CALLS = (ToolCall("set_v", {"id": "a", "value": 7}), ToolCall("look_up", {"word": "b"}))


def of_family(spelling) -> str:
    return spelling["family"]


def test_there_are_many_spellings_of_all_dialects():
    assert len({each["text"] for each in SPELLINGS}) > 100
    assert {each.get("dialect") for each in SPELLINGS} == {None, *dialect_names()}


@pytest.mark.parametrize("spelling", SPELLINGS, ids=of_family)
def test_a_spelling_is_read_by_its_dialect_or_invalid(spelling):
    dialect = spelling.get("dialect")
    dialects = [*([dialect] if dialect else []), *DEFAULT_DIALECTS]
    parsed = parse(spelling["text"], dialects, known=TOOLS)
    if dialect is None:
        assert (parsed.mode, parsed.calls) == ("invalid", ())
    else:
        assert parsed.mode in (dialect, "pythonic", "bare", "xlam"), parsed.problem
        assert parsed.calls == CALLS[: spelling.get("calls", 1)]


@pytest.mark.parametrize("spelling", SPELLINGS, ids=of_family)
@pytest.mark.parametrize("dialects", [DEFAULT_DIALECTS, ["pythonic"], ["hermes"], ["qwen_xml"]])
def test_no_spelling_is_silently_final(spelling, dialects):
    parsed = parse(spelling["text"], dialects, known=TOOLS)
    assert parsed.mode != "none"
    if parsed.mode == "invalid":
        assert parsed.problem
    else:
        assert parsed.calls == CALLS[: spelling.get("calls", 1)]


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize(
    "dialects", [DEFAULT_DIALECTS, *[[each] for each in dialect_names()]], ids=str
)
def test_a_plain_answer_is_no_call(answer, dialects):
    parsed = parse(answer, dialects, known=TOOLS)
    assert (parsed.mode, parsed.content) == ("none", answer)


@pytest.mark.parametrize("answer", ANSWERS)
def test_a_plain_answer_is_no_call_for_a_task_without_tools(answer):
    assert parse(answer, known=[]).mode == "none"


def test_the_reason_is_followed_by_the_form_that_is_read():
    parsed = parse("[TOOL_CALLS]set_v[ARGS]{}", ["pythonic", "bare"], known=TOOLS)
    assert parsed.problem == (
        "[TOOL_CALLS] starts a call in a form that is not read here. " + usage_example("pythonic")
    )


@pytest.mark.timeout(60)
def test_repeated_pieces_are_parsed_quickly_by_all_dialects():
    pieces = ["7", "f(a=", "<a", '"name": ', "a.", "f{", " ", "\n", "f:", "<|a|>", "f with ", "to="]
    pieces += ["<tool_call>f", "<function=f>", "call:f{", ">>>f\n", "commentary  ", "name: f\n"]
    for piece in pieces:
        parse(piece * (60_000 // len(piece)) + "f", dialect_names(), known=["f"])
