"""Text at the boundaries: what UTF-8 cannot hold, what a terminal must not get, strict JSON."""

import dataclasses
import json
import unicodedata

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from envgym.episode import Episode, Failure
from envgym.messages import Message, ToolCall
from envgym.policies import Completion
from envgym.sandbox import ToolResult
from envgym.tasks import Change, Task
from envgym.text import (
    MAX_DEPTH,
    clean,
    clean_value,
    content_text,
    natural_key,
    one_line,
    read_json,
    record_form,
    to_json,
    visible,
)
from envgym.tools import Tool

ANY_TEXT = st.text(st.characters(exclude_categories=()))
"""Any string that Python can hold, surrogates included."""
ANY_VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.binary() | ANY_TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(ANY_TEXT | st.integers(), inner),
    max_leaves=12,
)


def refuse(word: str):
    raise ValueError(f"{word} is no JSON")


def strict(line: str):
    """Parse JSON as a strict reader does: UTF-8, no NaN, no Infinity."""
    return json.loads(line.encode(), parse_constant=refuse)


def is_printable(text: str) -> bool:
    hidden = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
    return not any(unicodedata.category(letter) in hidden for letter in text if letter not in "‌‍")


# --- in ---


@given(ANY_TEXT)
def test_clean_text_can_be_encoded_and_cleaning_again_changes_nothing(text):
    assert clean(text).encode().decode() == clean(text) == clean(clean(text))


@given(st.text())
def test_text_that_can_be_encoded_is_kept(text):
    assert clean(text) is text


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("a\ud83db", "a\\ud83db"),
        ("\udc80", "\\udc80"),
        ("\ude00\ud83d", "\\ude00\\ud83d"),
        ("\ud83d\ude00", "\U0001f600"),
        ("\x00\x1b[2J\u202e\ue000\ufffe\u2028", "\x00\x1b[2J\u202e\ue000\ufffe\u2028"),
    ],
)
def test_half_a_pair_becomes_an_escape_and_two_halves_their_character(given, kept):
    assert clean(given) == kept


def test_values_are_cleaned_at_any_depth_and_clean_ones_are_not_copied():
    fine = {"a": ["b", ("c", {"d": 1})]}
    assert clean_value(fine) is fine
    call = ToolCall("say", {"\ud800": ["x", ("\udfff",)]})
    assert clean_value([call]) == [ToolCall("say", {"\\ud800": ["x", ("\\udfff",)]})]
    loop: list = ["\ud800"]
    loop.append(loop)
    assert clean_value(loop)[0] == "\\ud800"


def test_a_value_that_contains_itself_many_times_is_cleaned_in_linear_time():
    shared: list = ["\ud800"]
    for _ in range(60):
        shared = [shared, shared]
    cleaned = clean_value(shared)
    for _ in range(60):
        cleaned = cleaned[1]
    assert cleaned == ["\\ud800"]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("Hello", "Hello"),
        (None, ""),
        ([], ""),
        ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "ab"),
        (["a", {"text": "b"}, {"type": "output_text", "text": "c"}], "abc"),
        ([{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, "yes"], "yes"),
        ([{"type": "image_url", "image_url": {"url": "x"}}, {"type": "text", "text": None}], ""),
        ({"type": "text", "text": "one part"}, "one part"),
        (7, "7"),
        ("\ud83d", "\\ud83d"),
    ],
)
def test_content_is_the_text_of_its_parts(content, text):
    assert content_text(content) == text
    assert Message.from_dict({"role": "user", "content": content}).content == text


@given(ANY_TEXT)
def test_every_place_where_text_enters_holds_encodable_text(text):
    task = Task("test/t/0", text, 0, "test", "t", final=text, facts=(text,), extra={"label": text})
    schema = {
        "name": "f",
        "description": text,
        "parameters": {"properties": {"a": {"enum": [text]}}},
    }
    for entered in (
        Message("tool", text, name=text),
        Completion(text),
        ToolResult(text),
        Failure("k", "call", text),
        task,
        Tool.from_schema(schema),
    ):
        json.dumps(dataclasses.asdict(entered), ensure_ascii=False).encode()
    change = Change.update("t", "a", v=text)
    assert Task("test/t/0", "", 0, "test", "t", changes=(change,)).changes[0].values == {
        "v": clean(text)
    }


# --- out ---


@given(ANY_TEXT)
def test_visible_text_has_no_hidden_character_and_keeps_the_rest(text):
    shown = visible(text)
    assert is_printable(shown.replace("\n", "").replace("\t", ""))
    plain = "".join(letter for letter in text if letter in "\n\t" or is_printable(letter))
    if plain == text:
        assert shown == text


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("\x1b]0;title\x07\x1b[2J", "\\x1b]0;title\\x07\\x1b[2J"),
        ("\x9b31m\x85", "\\x9b31m\\x85"),
        ("pay\u202e001\u2066x\u200f", "pay\\u202e001\\u2066x\\u200f"),
        ("old\rnew\r\nnext\n\tend", "old\\x0dnew\nnext\n\tend"),
        ("\x00\x08\x7f\ue000\ufdd0\u2028", "\\x00\\x08\\x7f\\ue000\\ufdd0\\u2028"),
        ("\U000e0041\ud83d", "\\U000e0041\\ud83d"),
        ("Größe 漢字 \u00a0 می‌خواهم 👩‍🔧", "Größe 漢字 \u00a0 می‌خواهم 👩‍🔧"),
    ],
)
def test_what_could_act_on_a_terminal_is_shown_as_an_escape(given, shown):
    assert visible(given) == shown


def test_a_name_for_a_table_has_one_line():
    assert one_line("a\nb\t\x1b[2J  c") == "a b \\x1b[2J c"


@given(ANY_VALUE)
def test_any_value_becomes_one_line_of_strict_json(value):
    line = to_json(value)
    assert len(line.splitlines()) == 1
    assert is_printable(line)
    strict(line)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists))
def test_values_that_json_can_express_come_back_exactly(value):
    assert strict(to_json(value)) == value
    assert strict(to_json(value, indent=2)) == value


@given(ANY_TEXT)
def test_a_text_in_json_is_read_back_clean(text):
    assert strict(to_json({text: [text]})) == {clean(text): [clean(text)]}


def test_values_that_json_cannot_express_are_named():
    odd = {
        "inf": [float("inf"), float("-inf"), float("nan")],
        "numpy": [numpy.float32(0.5), numpy.int64(3), numpy.bool_(True), numpy.array([1, 2])],
        "bytes": b"\xff\x00",
        "set": {1},
        "call": ToolCall("f", {"x": float("nan")}),
        (1, "k"): object,
        1: "a",
        "1": "b",
    }
    plain = strict(to_json(odd))
    assert plain["inf"] == ["Infinity", "-Infinity", "NaN"]
    assert plain["numpy"] == [0.5, 3, True, [1, 2]]
    assert (plain["bytes"], plain["set"]) == ("ff00", [1])
    assert plain["call"] == {"name": "f", "arguments": {"x": "NaN"}}
    assert (plain["1"], plain["1 (2)"]) == ("a", "b")
    assert int(strict(to_json([10**5000]))[0], 16) == 10**5000


def test_nesting_without_end_is_cut_and_a_broken_object_is_named():
    class Broken:
        def __str__(self):
            raise RuntimeError("no text")

    deep: list = []
    for _ in range(20_000):
        deep = [deep]
    assert f"nested more than {MAX_DEPTH} levels" in to_json(deep)
    assert strict(to_json([Broken()])) == ["[Broken]"]


def test_redaction_sees_clean_text_of_keys_and_values_and_loses_no_entry():
    hide = {"token-1": "[secret]", "token-2": "[secret]"}
    form = record_form({"token-1": 1, "token-2": ["token-1", "x"]}, lambda t: hide.get(t, t))
    assert form == {"[secret]": 1, "[secret] (2)": ["[secret]", "x"]}


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b'{"a": "caf\xe9"}', {"a": "caf\\udce9"}),
        (b'\xef\xbb\xbf["\\ud83d"]', ["\\ud83d"]),
        (b'["\\ud83d\\ude00"]', ["\U0001f600"]),
    ],
)
def test_json_of_other_programs_is_read_in_any_encoding_error(data, value):
    assert read_json(data) == value


def test_what_is_no_json_is_a_value_error():
    for data in (b"", b"{", b"\xff", b"[" * 100_000):
        with pytest.raises(ValueError, match=r".+"):
            read_json(data)


# --- records ---


@given(ANY_TEXT, st.floats())
def test_an_episode_of_any_text_survives_its_line(text, number):
    episode = Episode(
        *(text, text, "test", text, text, 0, (Message("tool", text, name=text),), None, 1.0),
        state_diff={"extra": [{"table": text, "values": {text: number}}]},
        stop_reason=text,
        failure=Failure("kind", "call", text),
        policy=text,
    )
    line = episode.to_json()
    assert len(line.splitlines()) == 1
    strict(line)
    read = Episode.from_json(line)
    assert (read.messages, read.failure) == (episode.messages, episode.failure)
    assert read.policy == clean(text)


def test_levels_are_sorted_by_their_numbers():
    levels = ["L10", "L2", "L1", "easy", "L2b", "", "L²", "²"]
    assert sorted(levels, key=natural_key) == ["", "L1", "L2", "L2b", "L10", "L²", "easy", "²"]
