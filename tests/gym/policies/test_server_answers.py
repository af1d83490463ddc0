"""Answers of chat servers in unusual forms: content in parts, odd calls, undecodable bytes."""

import pytest

from envgym.errors import WorldFailure
from envgym.messages import Message
from envgym.tools import to_openai
from tests.fakes.phones import OPENING, UPDATE
from tests.gym.policies.test_openai import quick, server, text_answer


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ([{"type": "text", "text": "It is "}, {"type": "text", "text": "42."}], "It is 42."),
        ([{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, "42"], "42"),
        ([{"type": "output_text", "text": "42"}, {"type": "refusal", "refusal": "no"}], "42"),
        ([], ""),
        (["a", ["b"], None, {"text": 3}], "ab3"),
        ({"type": "text", "text": "one"}, "one"),
        (42, "42"),
        ("half \ud83d", "half \\ud83d"),
    ],
)
def test_content_in_parts_is_the_text_of_its_parts_and_is_sent_back_as_text(content, text):
    with server(lambda path, body: text_answer(content)) as (url, received):
        dialogue = quick(url).open(OPENING, (), seed=0)
        assert dialogue.reply().text == text
        dialogue.observe([Message("tool", "next \udfff")])
        dialogue.reply()
    assert received[1][1]["messages"][-2] == {"role": "assistant", "content": text}
    assert "next \\udfff" in received[1][1]["messages"][-1]["content"]


@pytest.mark.parametrize(
    "calls",
    [
        [{"id": "1", "function": None}],
        [{"function": {"name": None}}],
        ["a text"],
        {"id": "1", "type": "function"},
        [{"id": 7, "function": {"name": "f", "arguments": None}}],
    ],
)
def test_a_call_of_any_form_becomes_text_that_the_environment_judges(calls):
    answers = [text_answer(None, "tool_calls", tool_calls=calls), text_answer("Done.")]
    with server(lambda path, body: answers[min(len(received), 2) - 1]) as (url, received):
        dialogue = quick(url).open(OPENING, to_openai([UPDATE]), seed=0)
        assert "<tool_call>" in dialogue.reply().text
        dialogue.observe([Message("tool", "error: malformed")])
        assert dialogue.reply().text == "Done."
    sent = received[1][1]["messages"]
    assert sent[-1]["tool_call_id"] == sent[-2]["tool_calls"][0]["id"]


@pytest.mark.parametrize("choices", [[], [None], ["x"], [{"message": "x"}], {"0": 1}, None])
def test_an_answer_without_a_message_is_a_failure_with_its_text(choices):
    with (
        server(lambda path, body: (200, {"choices": choices})) as (url, _),
        pytest.raises(WorldFailure, match="contains no message"),
    ):
        quick(url).open(OPENING, (), seed=0).reply()


def test_bytes_that_are_no_utf8_are_visible_in_the_answer():
    raw = '{"choices": [{"message": {"content": "caf\udce9"}}]}'

    class Latin(str):
        def encode(self, *_):
            return str.encode(self, "utf-8", "surrogateescape")

    with server(lambda path, body: (200, Latin(raw))) as (url, _):
        assert quick(url).open(OPENING, (), seed=0).reply().text == "caf\\udce9"
