"""Stop strings and deltas of a text that arrives in pieces."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envgym_trainer.model.chat import Chat
from envgym_trainer.serving.answers import AnswerReader, DeltaStream
from envgym_trainer.serving.stop_strings import StopFinder, TokenDecoder
from tests.fakes.small_models import byte_tokenizer
from tests.fakes.taught_model import TOOLS, hermes

CHAT = Chat(byte_tokenizer())


def pieces_of(text: str, size: int) -> list[str]:
    return [text[start : start + size] for start in range(0, len(text), size)]


@given(st.text("ab", max_size=30), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_a_text_ends_before_its_first_stop_string(text, stops):
    finder = StopFinder(stops)
    found = "".join(finder.push(piece) for piece in pieces_of(text, 1)) + finder.finish()
    whole = min((text.index(stop) for stop in stops if stop in text), default=len(text))
    # a stop string that ends first wins, although a longer one may have begun before it
    ends = [(text.index(stop) + len(stop), text.index(stop)) for stop in stops if stop in text]
    first = min(ends, default=(0, len(text)))[0]
    begins = [begin for end, begin in ends if end == first]
    assert found == text[: min(begins, default=whole)]
    assert finder.found == bool(ends)


@given(st.text(max_size=40))
def test_decoded_pieces_add_up_to_the_text(text):
    decoder = TokenDecoder(CHAT)
    ids = CHAT.answer(text)
    pieces = [decoder.push(token) for token in ids]
    assert "".join(pieces) + decoder.finish() == CHAT.decode(ids)
    assert not any("\ufffd" in piece for piece in pieces if "\ufffd" not in text)


ANSWERS = [
    "Hello there.\n\nSecond paragraph.",
    hermes("look_up", name="x", count=2),
    f"I look.\n{hermes('look_up', name='x')}\n{hermes('set_value', value=1)}",
    "<think>a < b</think>\nIt is [so].",
    "a < b and c > d",
    'look_up(name="x")',
    "look at this",
    "Sure:\nlook_up is a tool",
    '<tool_call>\n{"name": "look_up", "arguments": {\n</tool_call>',
    "<think>never closed",
    '```json\n{"name": "set_value", "arguments": {"value": 3}}\n```',
    "  white space  ",
]


@pytest.mark.parametrize("tools", [TOOLS, []], ids=["tools", "none"])
@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize("text", ANSWERS)
def test_deltas_add_up_to_the_message(text, size, tools):
    reader = AnswerReader(CHAT, tools)
    stream = DeltaStream(reader)
    deltas = [delta for piece in pieces_of(text, size) for delta in stream.push(piece)]
    deltas += stream.finish()
    message = reader.read(text)
    content = "".join(delta.get("content", "") for delta in deltas)
    assert content.strip() == message.content.strip()
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == message.reasoning
    names = [
        call["function"]["name"]
        for delta in deltas
        for call in delta.get("tool_calls", ())
        if "name" in call["function"]
    ]
    assert names == [call["function"]["name"] for call in message.calls]


def test_plain_text_is_sent_at_once_although_there_are_tools():
    stream = DeltaStream(AnswerReader(CHAT, TOOLS))
    sent = [stream.push(word) for word in ("One", " two.", "\n\nThree", " four")]
    assert [len(deltas) for deltas in sent] == [1, 1, 1, 1]
