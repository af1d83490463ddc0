"""Dialects: calls, plain text and malformed attempts are distinguished; parsing never raises."""

import gc
import threading
import time
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envgym.dialects import (
    dialect_names,
    find_dialect,
    parse,
    render_call,
    usage_example,
)
from envgym.dialects.literals import MalformedCall
from envgym.errors import UsageError
from envgym.messages import ToolCall


def calls_read_by(dialect: str):
    """Return a function that reads the calls in a text."""
    return lambda text: None if (read := find_dialect(dialect).read(text)) is None else read[0]


hermes = calls_read_by("hermes")
fenced = calls_read_by("fenced")
bare = calls_read_by("bare")
pythonic = calls_read_by("pythonic")
LOOK_UP = ToolCall("look_up", {"id": "A1", "limit": 2})
JSON = '{"name": "look_up", "arguments": {"id": "A1", "limit": 2}}'

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
tricky = st.sampled_from(
    [
        "</tool_call>",
        "<tool_call>",
        "```",
        "\n```\n",
        '"',
        "\\",
        "\\d",
        "{",
        "f(a=1)",
        "\u2028",
        "\x00",
        "é€𝄞",
        "'''",
    ]
)


@given(
    text=st.text(max_size=200)
    | st.lists(
        tricky | texts | st.sampled_from([JSON, "[", "(", "f(", ")", "]", "}"]), max_size=12
    ).map("".join)
)
@settings(max_examples=300, deadline=None)
def test_no_text_whatever_raises(text):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert parse(text, known=["f"]).mode in (*dialect_names(), "none", "invalid")


@pytest.mark.parametrize(
    ("read", "text"),
    [
        (hermes, f"<tool_call>\n{JSON}\n</tool_call>"),
        (hermes, f"I will look.\n<tool_call>{JSON}</tool_call>"),
        (fenced, f"```json\n{JSON}\n```"),
        (fenced, f"Looking:\n```\n[{JSON}]\n```\n"),
        (fenced, f"```tool_call\n{JSON}\n```"),
        (bare, f"  {JSON}\n"),
        (bare, f"[{JSON}]"),
        (pythonic, 'look_up(id="A1", limit=2)'),
        (pythonic, "[look_up(id='A1', limit=2)]"),
        (pythonic, '\n  look_up(\n    id="A1",\n    limit=2,\n  )\n'),
        (pythonic, 'look_up(**{"id": "A1", "limit": 2})'),
    ],
)
def test_the_same_call_in_every_form(read, text):
    assert read(text) == [LOOK_UP]


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        (f"<tool_call>{JSON}</tool_call>\n<tool_call>{JSON}</tool_call>", "hermes"),
        (f"```json\n{JSON}\n```\nand\n```json\n{JSON}\n```", "fenced"),
        (f"[{JSON}, {JSON}]", "bare"),
        ('[look_up(id="A1", limit=2), look_up(id="A1", limit=2)]', "pythonic"),
        ('look_up(id="A1", limit=2)\nlook_up(id="A1", limit=2)', "pythonic"),
    ],
)
def test_several_calls_in_one_answer(text, mode):
    assert (parse(text).calls, parse(text).mode) == ((LOOK_UP, LOOK_UP), mode)


@pytest.mark.parametrize(
    "text",
    [
        "Done.",
        "Done (as asked).",
        "I used look_up(id) before.",
        "",
        "[1] see the note",
        "[]",
        '{"answer": 42}',
        "```python\nprint(1)\n```",
        '```json\n{"answer": 42}\n```',
        "2 < 3 and <b>bold</b>",
    ],
)
def test_plain_text_is_an_answer(text):
    parsed = parse(text)
    assert (parsed.mode, parsed.calls, parsed.content, parsed.problem) == ("none", (), text, "")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('<tool_call>{"name": "f", "arguments": {}}', "must come </tool_call>, got the end"),
        (
            '<tool_call>{"name": "f" "arguments": {}}</tool_call>',
            "not valid JSON: Expecting ',' delimiter",
        ),
        ("</tool_call>", "without <tool_call> before it"),
        ('<tool_call>{"name": "f"}</tool_call>', "has no 'arguments'"),
        ('<tool_call>{"name": "f", "arguments": "x"}</tool_call>', 'must be an object, got "x"'),
        ('<tool_call>{"name": 3, "arguments": {}}</tool_call>', "must be a string, got 3"),
        ('<tool_call>{"name": "f", "arguments": {}, "why": 1}</tool_call>', "unknown key 'why'"),
        ("<tool_call>[]</tool_call>", "must be an object"),
        ('{"name": "f", "arguments": {"a": 1, "a": 2}}', "'a' stands twice"),
        ('{"name": "f", "arguments": {"a": NaN}}', "NaN is not a JSON value"),
        ('{"name": "f", "arguments": {"a": -Infinity}}', "-Infinity is not a JSON value"),
        ('{"name": "f", "arguments": {"a": 1e999}}', "too large"),
        ('{"name": "f", "arguments": {"a": "\\ud800"}}', "half a surrogate pair"),
        (JSON + " and so on", "alone, got more after it: and so on"),
        (f"```json\n{JSON}", "a line with ``` alone"),
        ("look_up(", "not valid Python"),
        ('look_up("A1")', "name every argument of look_up"),
        ("look_up(id=A1)", 'A1 has no value; write a text in quotes: "A1"'),
        ("look_up(all=true)", "write True instead of true"),
        ('look_up(id="A1", id="A2")', "'id' stands twice"),
        ('look_up(x={"a": 1, "a": 2})', "'a' stands twice"),
        ('send(from="me")', 'from is a Python keyword; write the argument as **{"from": ...}'),
        ("look_up(id=other())", "plain values"),
        ("look_up(id=1+1)", "plain values"),
        ('look_up(id=f"{x}")', "plain values"),
        ("look_up(id=(1, 2))", "write a list as [a, b]"),
        ("look_up(id={1: 2})", "keys of an object must be strings"),
        ("look_up(id=1e999)", "too large"),
        (r'look_up(id="\d")', "is no escape in Python"),
        (r'look_up(id="\ud800")', "half a surrogate pair"),
        ('look_up(id="A1")\nDone.', "write only"),
        ('look_up(id="A1").delete()', "must start with the name of a tool"),
        ("[look_up(id=1), 3]", "write only calls"),
        ("<think>hm", "not closed with </think>"),
    ],
)
def test_a_malformed_attempt_is_invalid_and_says_why(text, problem):
    parsed = parse(text)
    assert (parsed.mode, parsed.calls) == ("invalid", ())
    assert problem in parsed.problem
    assert len(parsed.problem) < 200


def test_an_unknown_name_is_still_a_call():
    assert parse("no_such_tool(a=1)", ["pythonic"], known=["look_up"]).calls == (
        ToolCall("no_such_tool", {"a": 1}),
    )


def test_a_known_call_after_prose_is_an_attempt_and_an_unknown_one_is_prose():
    text = 'I will look.\nlook_up(id="A1")'
    assert parse(text, ["pythonic"], known=["look_up"]).problem == (
        "write the call alone, without any other text. "
        'To call a tool, answer with nothing but: look_up(word="tree")'
    )
    assert parse(text, ["pythonic"], known=["other"]).mode == "none"


def test_only_the_dialects_asked_for_are_read():
    assert parse(JSON, ["pythonic"]).mode == "none"
    assert parse('look_up(id="A1")', ["hermes", "bare"]).mode == "none"


def test_a_thought_is_set_aside_and_a_call_in_it_is_not_made():
    parsed = parse(f"<think>maybe <tool_call>{JSON}</tool_call>?</think>\nNo.", ["hermes"])
    assert (parsed.mode, parsed.content) == ("none", "No.")


def test_the_text_around_calls_is_kept():
    assert parse(f"Before.\n<tool_call>{JSON}</tool_call>\nAfter.").content == "Before.\n\nAfter."


@pytest.mark.parametrize(
    "text",
    [
        "f(a=" + "[" * 100_000,
        "f(a=" + "-" * 100_000 + "1)",
        "f(a=" + "1+" * 50_000 + "1)",
        "f" + ".f" * 50_000 + "(a=1)",
        "f" + "()" * 50_000,
        "f(a=" + "9" * 100_000 + ")",
        '{"name": "f", "arguments": ' + '{"a": ' * 100_000,
        '{"name": "f", "arguments": {"a": ' + "[" * 40 + "]" * 40 + "}}",
        '{"name": "f", "arguments": {"a": ' + "9" * 100_000 + "}}",
        "<tool_call>" * 90_000,
        "f(a='" + "x" * 1_000_000 + "')",
        '{"name": "' + "x" * 1_000_000,
        "f(a='\x00')",
    ],
    ids=lambda text: text[:12],
)
def test_hostile_text_is_invalid_and_never_a_crash(text):
    assert parse(text).mode == "invalid"


@pytest.mark.timeout(10)
@pytest.mark.parametrize("piece", ["x", " ", "\n", "a ", "a.", "`", "```\n", "<think", "\\", "é"])
def test_a_megabyte_of_prose_is_plain_text_and_quick(piece):
    assert parse(("." + piece * 1_000_000)[:1_000_000], known=["f"]).mode == "none"


class SlowGarbage:
    """Reference cycle whose finalizer lets other threads run during garbage collection."""

    def __init__(self):
        self.me = self

    def __del__(self):
        time.sleep(0.0001)


def test_many_threads_parse_at_once():
    # Without the lock, a collection during a parse in another thread raises
    # "SystemError: AST constructor recursion depth mismatch".
    text = 'f(a=[1, [2, {"x": [3, 4]}]], b="c")\n' * 30
    wrong = []
    threshold = gc.get_threshold()

    def work():
        try:
            for _ in range(40):
                SlowGarbage()
                wrong.extend([] if parse(text, ["pythonic"]).mode == "pythonic" else ["not read"])
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    gc.set_threshold(60)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        gc.set_threshold(*threshold)
    assert wrong == []


def test_nothing_is_evaluated(tmp_path):
    target = tmp_path / "touched"
    assert parse(f"open(file=open({str(target)!r}, 'w'))").mode == "invalid"
    assert parse(f"__import__(name='pathlib').Path({str(target)!r}).touch()").mode == "invalid"
    assert not target.exists()


def test_what_a_dialect_cannot_write_is_refused():
    with pytest.raises(UsageError, match="cannot be written as JSON"):
        render_call(ToolCall("f", {"a": float("nan")}), "hermes")
    with pytest.raises(UsageError, match="nan cannot be written"):
        render_call(ToolCall("f", {"a": float("nan")}), "pythonic")
    with pytest.raises(UsageError, match="'get-it' cannot be called in the pythonic dialect"):
        render_call(ToolCall("get-it", {}), "pythonic")
    with pytest.raises(
        UsageError, match="unknown tool-call dialect 'hermess', did you mean 'hermes'"
    ):
        parse("x", ["hermess"])


def test_a_dialect_function_raises_where_it_was_tried_in_vain():
    with pytest.raises(MalformedCall, match="not valid JSON"):
        hermes("<tool_call>oops</tool_call>")


@pytest.mark.parametrize("dialect", dialect_names())
def test_the_explanation_shows_the_very_form_that_is_read(dialect):
    assert parse(usage_example(dialect).partition(":")[2].strip(), [dialect]).calls == (
        ToolCall("look_up", {"word": "tree"}),
    )
