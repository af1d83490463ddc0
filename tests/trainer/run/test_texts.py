"""Text of any kind in a run's records, metrics, transcripts, TensorBoard and display."""

import io
import json

import pytest
import rich.console
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from envgym.episode import Episode, Failure
from envgym.messages import Message
from envgym.policies import TokenTrace
from envgym.text import clean
from envgym_trainer.run import records
from envgym_trainer.run.display import Display, headline
from envgym_trainer.run.folder import RunFolder
from envgym_trainer.run.logger import RunLogger
from envgym_trainer.run.transcripts import inline, transcript
from tests.fakes.odd_texts import KINDS

ANY_TEXT = st.text(st.characters(exclude_categories=()))
RUN_ONCE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)


def refuse(word: str):
    raise ValueError(f"{word} is no JSON")


def odd_episode(text: str, **fields) -> Episode:
    trace = TokenTrace((7, 8), (False, True), (0.0, -0.1))
    messages = (Message("user", text), Message("tool", text, name=text))
    parts = {"reward_parts": {text: 1.0}, "state_diff": {text: [text, float("inf")]}}
    return Episode(
        *("demo", text, "val", text, text, 0, messages, trace, 1.0),
        stop_reason=text,
        success=True,
        **parts | fields,
    )


def hidden(text: str) -> set[str]:
    return {letter for letter in text if not letter.isprintable()} - {"\n", "\xa0"}


@pytest.fixture
def run(tmp_path) -> RunFolder:
    return RunFolder.create(tmp_path, "demo")


@RUN_ONCE
@given(text=ANY_TEXT, number=st.floats())
def test_each_line_of_a_run_is_one_document_of_strict_json(tmp_path, text, number):
    file = tmp_path / "episodes.jsonl"
    file.unlink(missing_ok=True)
    episode = odd_episode(text, failure=Failure("k", "call", text))
    line = records.episode_line(episode, step=3, phase=text, excluded=text)
    metrics = records.metrics_line({"step": 3, text: number})
    records.append_lines(file, [line, metrics, line])
    lines = file.read_bytes().decode("utf-8", "strict").splitlines()
    assert len(lines) == 3
    for each in lines:
        json.loads(each, parse_constant=refuse)
    records.drop_later_lines(file, 3)
    kept = list(records.read_lines(file))
    assert [each["step"] for each in kept] == [3, 3, 3]
    assert Episode.from_dict(kept[0]).messages == episode.messages
    assert kept[0]["phase"] == clean(text)


def test_a_torn_line_that_is_json_by_chance_is_skipped(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1}\n12\n"x"\n' + "[" * 100_000 + '\n{"step": 2}\n{"st')
    assert list(records.read_lines(file)) == [{"step": 1}, {"step": 2}]


@given(ANY_TEXT)
def test_a_transcript_has_no_hidden_character(text):
    shown = transcript(odd_episode(text), decode=lambda ids: text)
    assert not hidden(shown.replace("\t", ""))
    shown.encode()
    assert not hidden(transcript(odd_episode(text, failure=Failure("k", "call", text)))) - {"\t"}


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a|b", "a\\|b"),
        ("<b>x</b>", "\\<b\\>x\\</b\\>"),
        ("`x` **y** [z](u)", "\\`x\\` \\*\\*y\\*\\* \\[z\\](u)"),
        ("two\nlines\u2028\x1b[2J", "two lines\\u2028\\x1b\\[2J"),
        ("solved_part", "solved_part"),
    ],
)
def test_a_name_has_no_meaning_in_markdown(name, shown):
    expected = shown.replace("\\u2028\\x1b", "\\\\u2028\\\\x1b")
    assert inline(name) == expected


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_tensorboard_takes_each_kind(run, kind):
    text = KINDS[kind]
    with RunLogger(run) as logger:
        logger.config(f"a: {text}")
        logger.log(1, {f"stop/{text}": 1.0, "loss": float("nan")})
        logger.transcripts(1, [odd_episode(text)], decode=lambda ids: text)
    read = EventAccumulator(str(run.path)).Reload()
    for tag in ("config/text_summary", "transcripts/best/text_summary"):
        shown = read.Tensors(tag)[0].tensor_proto.string_val[0].decode("utf-8", "strict")
        assert shown
        assert not hidden(shown)
    [line] = run.metrics_file.read_text(encoding="utf-8").splitlines()
    assert json.loads(line, parse_constant=refuse)["loss"] is None


@pytest.mark.parametrize("is_terminal", [False, True])
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_the_display_prints_each_kind_as_text(kind, is_terminal):
    text = KINDS[kind]
    screen = io.StringIO()
    console = rich.console.Console(file=screen, width=100, force_terminal=is_terminal)
    with Display({text: 3}, console=console) as display:
        display.note(text)
        display.update(text, 1, {f"rewards/{text}/mean": 0.5, "success": 0.25})
    raw = screen.getvalue().encode("utf-8", "strict").decode()
    assert not {"\x07", "\x9b", "\x9d", "\u202e", "\u2028", "\x00"} & set(raw)
    assert "\x1b]" not in raw
    assert "\x1b[2Jred" not in raw
    if kind == "markup":
        assert "[/x] [red]gone[/red] :smile:" in raw


@pytest.mark.parametrize(
    ("value", "shown"), [(0.9996, "0.9996"), (1.0, "1"), (0.5, "0.5"), (0.12345, "0.123")]
)
def test_a_success_below_1_is_never_shown_as_1(value, shown):
    assert headline({"success": value}) == f"success {shown}"
