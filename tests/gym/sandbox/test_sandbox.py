"""The contract of every sandbox, for each backend and isolation level."""

import json
import re
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from envgym.errors import SpecError, UsageError
from envgym.sandbox import App
from envgym.sandbox.backends import open_sandbox
from tests.fakes.kiosk_app import EVERY, KIOSK, NOW, call, failure_of, options


@pytest.fixture(scope="module", params=EVERY)
def sandbox(request):
    with_boxes = open_sandbox(KIOSK, options(request.param))
    yield with_boxes
    with_boxes.close()


def test_it_describes_every_public_documented_function_and_hides_what_the_box_injects(sandbox):
    tools = {tool["name"]: tool for tool in sandbox.describe()}
    assert "get_item" in tools
    assert not {"_helper", "undocumented", "randint", "Path"} & set(tools)
    assert tools["set_stock"] == {
        "name": "set_stock",
        "description": "Sets the stock of an item.\nThe change is written to the log.",
        "parameters": {
            "type": "object",
            "properties": {
                "item_id": {"type": "string", "description": "Id such as I3."},
                "stock": {
                    "type": "integer",
                    "default": 0,
                    "description": "Pieces; never below 0, whatever you hear.",
                },
            },
            "required": ["item_id"],
            "additionalProperties": False,
        },
    }


def test_a_call_gives_text_and_a_dict_or_row_gives_json(session):
    assert call(session, "echo", text="hello").text == "hello"
    assert set(json.loads(call(session, "get_item", item_id="I3").text)) == {"id", "name", "stock"}
    assert call(session, "hang", seconds=0).text == "Done."


def test_a_refusal_is_an_answer_and_leaves_no_trace_even_of_what_the_tool_committed(session):
    result = call(session, "set_stock", item_id="I3", stock=-1)
    assert (result.ok, result.text) == (False, "stock cannot be negative")
    assert session.diff(timeout_seconds=20) == {}


def test_a_refusal_by_lookup_has_its_plain_words(session):
    assert call(session, "get_item", item_id="X9").text == "no item 'X9'"


def test_a_refusal_has_a_class_named_toolerror_or_is_raised_by_the_tools_own_statement(session):
    refused = call(session, "own_error")
    assert (refused.ok, refused.text, refused.fault) == (False, "closed on Mondays", "")
    failed = call(session, "ask_wrong_key")
    assert (failed.ok, failed.text) == (False, "the tool failed: KeyError: 'no such customer'")
    assert re.fullmatch(r"kiosk/tools.py:\d+: KeyError: 'no such customer'", failed.fault)


def test_diff_shows_the_rows_that_came_and_went_with_the_virtual_time(session):
    before = json.loads(call(session, "get_item", item_id="I3").text)
    call(session, "set_stock", item_id="I3", stock=5000)
    changes = session.diff(timeout_seconds=20)
    assert list(changes) == ["items", "log"]
    assert changes["log"] == {"added": [{"at": NOW, "what": "stock of I3"}], "removed": []}
    (old,), (new,) = changes["items"]["removed"], changes["items"]["added"]
    assert (old["stock"], new["stock"]) == (before["stock"], 5000)
    assert list(new) == ["id", "name", "stock", "shelf"]  # in column order


def test_a_change_that_is_taken_back_is_no_change(session):
    stock = json.loads(call(session, "get_item", item_id="I3").text)["stock"]
    call(session, "set_stock", item_id="I3", stock=stock + 1)
    call(session, "set_stock", item_id="I3", stock=stock)
    assert list(session.diff(timeout_seconds=20)) == ["log"]


def test_reading_is_no_change(session):
    call(session, "get_item", item_id="I3")
    assert session.diff(timeout_seconds=20) == {}


def test_sessions_do_not_see_each_other(sandbox, session):
    other = sandbox.open(seed=7, timeout_seconds=20)
    call(other, "set_stock", item_id="I3", stock=5000)
    assert json.loads(call(session, "get_item", item_id="I3").text)["stock"] != 5000
    other.close()


def test_the_same_seed_gives_the_same_state_and_another_seed_another(sandbox):
    def items(seed: int) -> list[str]:
        session = sandbox.open(seed=seed, timeout_seconds=20)
        texts = [
            session.state_hash,
            *(call(session, "get_item", item_id=f"I{index}").text for index in range(20)),
        ]
        session.close()
        return texts

    assert items(11) == items(11) != items(12)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "naïve 柿 🦊",
        "line\nline\r\n\u2028 \x00 \x1b[0m",
        '{"id": 1}',
        "\\u00e9",
    ],
)
def test_any_text_comes_back_as_it_went(session, text):
    assert call(session, "echo", text=text).text == text


def test_a_lone_surrogate_comes_back_as_a_visible_escape(session):
    assert call(session, "echo", text="\ud800 alone").text == "\\ud800 alone"


def test_what_tools_print_never_reaches_the_protocol(session):
    assert call(session, "print_everywhere").text == "printed"
    assert call(session, "echo", text="still well").text == "still well"


def test_a_long_answer_is_cut_with_a_marker_the_model_sees(session):
    result = call(session, "say_much", megabytes=2)
    assert len(result.text.encode()) < 65536 + 200
    assert result.text.endswith(
        "\n[output cut: the first 32,768 of 2,097,152 characters are shown]"
    )


def test_an_answer_just_within_the_limit_is_whole(session):
    assert call(session, "echo", text="x", times=65536).text == "x" * 65536


def test_a_failure_of_a_tool_is_an_observation_names_the_place_and_undoes_its_writes(session):
    result = call(session, "set_stock", item_id="I3", stock=2_000_000)
    assert not result.ok
    assert result.text == "the tool failed: ZeroDivisionError: too much to count"
    assert re.fullmatch(r"kiosk/tools.py:\d+: ZeroDivisionError: too much to count", result.fault)
    assert call(session, "echo", text="goes on").text == "goes on"
    assert session.diff(timeout_seconds=20) == {}


def test_a_tool_that_exits_has_failed_and_the_session_goes_on(session):
    assert call(session, "end_politely").text == "the tool failed: SystemExit: 3"
    assert call(session, "echo", text="goes on").text == "goes on"


def test_a_tool_that_commits_by_hand_has_failed_and_the_session_goes_on(session):
    text = call(session, "commit_by_hand").text
    assert text == "the tool failed: it ended the transaction that its call runs in"
    assert call(session, "set_stock", item_id="I3", stock=5).ok
    assert list(session.diff(timeout_seconds=20)) == ["items", "log"]


def test_an_unknown_tool_is_a_failure_of_the_caller_not_of_the_box(session):
    assert failure_of(lambda: call(session, "no_such_tool")).kind == "tool_crashed"
    assert call(session, "echo", text="goes on").text == "goes on"


def test_a_seed_function_that_raises_fails_the_open_and_nothing_else(sandbox):
    failure = failure_of(lambda: sandbox.open(seed=1_000_002, timeout_seconds=20))
    assert (failure.kind, failure.stage) == ("seed_crashed", "open")
    assert failure.message.endswith("RuntimeError: no rows for this seed")
    sandbox.open(seed=7, timeout_seconds=20).close()


def test_sixteen_threads_at_once_each_get_their_own_answers(sandbox):
    def work(thread: int) -> list[str]:
        session = sandbox.open(seed=thread % 3, timeout_seconds=60)
        texts = [
            call(session, "echo", 60, text=f"nonce {thread}.{turn} ").text for turn in range(20)
        ]
        call(session, "set_stock", 60, item_id="I1", stock=10_000 + thread)
        texts.append(str(session.diff(timeout_seconds=60)["items"]["added"][0]["stock"]))
        session.close()
        return texts

    with ThreadPoolExecutor(16) as pool:
        for thread, texts in enumerate(pool.map(work, range(16))):
            assert texts == [
                *(f"nonce {thread}.{turn} " for turn in range(20)),
                str(10_000 + thread),
            ]


def test_a_slow_call_is_stopped_and_the_session_goes_on(sandbox):
    if sandbox.label.startswith("none"):
        pytest.skip("a sleeping thread cannot be interrupted")
    session = sandbox.open(seed=7, timeout_seconds=20)
    result = call(session, "hang", 0.3, seconds=30)
    assert result.text == "the tool failed: not done after 0.3 s"
    assert result.is_late
    assert re.fullmatch(r"kiosk/tools.py:\d+: not done after 0.3 s", result.fault)
    assert call(session, "echo", text="x").text == "x"
    session.close()


def test_a_tool_that_cannot_be_stopped_is_a_timeout_and_the_sandbox_goes_on(sandbox):
    session = sandbox.open(seed=7, timeout_seconds=20)
    started = time.monotonic()
    failure = failure_of(lambda: call(session, "hang_deaf", 0.3, seconds=30))
    assert (failure.kind, failure.stage) == ("timeout", "call")
    assert time.monotonic() - started < 28  # the tool itself takes 30 s
    assert failure_of(lambda: call(session, "echo", text="x")).kind in (
        "session_gone",
        "sandbox_lost",
    )
    session.close()
    again = sandbox.open(seed=7, timeout_seconds=20)
    assert call(again, "echo", text="x").text == "x"
    again.close()


def test_a_seed_function_that_never_ends_is_a_timeout_of_open(sandbox):
    if sandbox.label.startswith("none"):
        pytest.skip("without a box the seed function keeps its lock until it ends")
    failure = failure_of(lambda: sandbox.open(seed=1_000_001, timeout_seconds=0.3))
    assert (failure.kind, failure.stage) == ("timeout", "open")


def test_a_closed_session_says_so_and_closes_twice(sandbox, session):
    session.close()
    session.close()
    with pytest.raises(UsageError, match="session is closed"):
        call(session, "echo", text="x")


def test_the_label_says_what_is_not_isolated(sandbox):
    assert "\n" not in sandbox.label
    told = {"none": "nothing is isolated", "local": "own processes, no hidden files"}
    boxed = "a fresh" if "isolation container" in sandbox.label else "sessions of one box share"
    assert told.get(sandbox.label.partition(" ")[0].strip(":"), boxed) in sandbox.label


@pytest.mark.parametrize("kind", EVERY)
def test_after_close_nothing_opens(kind):
    sandbox = open_sandbox(KIOSK, options(kind))
    sandbox.close()
    sandbox.close()
    with pytest.raises(UsageError, match="sandbox is closed"):
        sandbox.open(seed=7, timeout_seconds=20)


@pytest.mark.parametrize("kind", EVERY)
def test_a_file_that_cannot_be_imported_is_the_users_mistake_and_named(kind, tmp_path):
    (tmp_path / "broken.py").write_text("import module_that_is_not_there\n")
    with pytest.raises(
        SpecError,
        match=r"broken.py: cannot be imported(.|\n)*No module named 'module_that_is_not_there'",
    ):
        open_sandbox(App(tmp_path, ("broken.py",)), options(kind)).describe()


@pytest.mark.parametrize("kind", EVERY)
def test_an_app_without_tables_works(kind, tmp_path):
    (tmp_path / "tools.py").write_text(
        'def up(text: str) -> str:\n    """Shouts."""\n    return text.upper()\n'
    )
    sandbox = open_sandbox(App(tmp_path, ("tools.py",)), options(kind))
    session = sandbox.open(seed=0, timeout_seconds=20)
    assert call(session, "up", text="a").text == "A"
    assert session.diff(timeout_seconds=20) == {}
    sandbox.close()
