"""What every sandbox promises, whichever backend and isolation it has."""

import gc
import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from kiosk import EVERY, FORK, KIOSK, LOCAL, NOW, call, options

from envgym.errors import SpecError, UsageError, WorldFailure
from envgym.sandbox import App
from envgym.sandbox.factory import open_sandbox


@pytest.fixture(scope="module", params=EVERY)
def sandbox(request):
    with_boxes = open_sandbox(KIOSK, options(request.param))
    yield with_boxes
    with_boxes.close()


@pytest.fixture
def session(sandbox):
    session = sandbox.open(seed=7, timeout_seconds=20)
    yield session
    session.close()


def failure_of(work) -> WorldFailure:
    with pytest.raises(WorldFailure) as caught:
        work()
    return caught.value


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
                "stock": {"type": "integer", "default": 0, "description": "Pieces; never below 0, whatever you hear."},
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
    refused = call(session, "ask_wrong_key")
    assert (refused.ok, refused.text) == (False, "no such customer")


def test_diff_shows_the_rows_that_came_and_went_with_the_virtual_time(session):
    before = json.loads(call(session, "get_item", item_id="I3").text)
    call(session, "set_stock", item_id="I3", stock=5000)
    changes = session.diff(timeout_seconds=20)
    assert list(changes) == ["items", "log"]
    assert changes["log"] == {"added": [{"at": NOW, "what": "stock of I3"}], "removed": []}
    (old,), (new,) = changes["items"]["removed"], changes["items"]["added"]
    assert (old["stock"], new["stock"]) == (before["stock"], 5000)
    assert list(new) == ["id", "name", "stock", "shelf"]  # in the table's order


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
        texts = [session.state_hash, *(call(session, "get_item", item_id=f"I{index}").text for index in range(20))]
        session.close()
        return texts

    assert items(11) == items(11) != items(12)


@pytest.mark.parametrize("text", ["", "naïve 柿 🦊", "line\nline\r\n\u2028 \x00 \x1b[0m", '{"id": 1}', "\ud800 alone", "\\u00e9"])
def test_any_text_comes_back_as_it_went(session, text):
    assert call(session, "echo", text=text).text == text


def test_what_tools_print_never_reaches_the_protocol(session):
    assert call(session, "print_everywhere").text == "printed"
    assert call(session, "echo", text="still well").text == "still well"


def test_a_long_answer_is_cut_with_a_marker_the_model_sees(session):
    result = call(session, "say_much", megabytes=2)
    assert len(result.text.encode()) < 65536 + 200
    assert result.text.endswith("\n[output cut: the first 32,768 of 2,097,152 characters are shown]")


def test_an_answer_just_within_the_limit_is_whole(session):
    assert call(session, "echo", text="x", times=65536).text == "x" * 65536


def test_a_crash_of_a_tool_voids_the_call_shows_the_traceback_and_undoes_its_writes(session):
    failure = failure_of(lambda: call(session, "set_stock", item_id="I3", stock=2_000_000))
    assert (failure.kind, failure.stage) == ("tool_crashed", "call")
    assert "tools.py" in failure.message
    assert failure.message.endswith("ZeroDivisionError: too much to count")
    assert "desk.py" not in failure.message
    assert call(session, "echo", text="goes on").text == "goes on"
    assert session.diff(timeout_seconds=20) == {}


def test_a_tool_that_exits_has_crashed_and_the_session_goes_on(session):
    assert failure_of(lambda: call(session, "end_politely")).kind == "tool_crashed"
    assert call(session, "echo", text="goes on").text == "goes on"


def test_a_tool_that_commits_by_hand_is_told_so(session):
    failure = failure_of(lambda: call(session, "commit_by_hand"))
    assert failure.kind == "tool_crashed"
    assert "'commit_by_hand' ended the transaction" in failure.message


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
        texts = [call(session, "echo", 60, text=f"nonce {thread}.{turn} ").text for turn in range(20)]
        call(session, "set_stock", 60, item_id="I1", stock=10_000 + thread)
        texts.append(str(session.diff(timeout_seconds=60)["items"]["added"][0]["stock"]))
        session.close()
        return texts

    with ThreadPoolExecutor(16) as pool:
        for thread, texts in enumerate(pool.map(work, range(16))):
            assert texts == [*(f"nonce {thread}.{turn} " for turn in range(20)), str(10_000 + thread)]


def test_a_stuck_tool_is_a_timeout_and_the_sandbox_goes_on(sandbox):
    session = sandbox.open(seed=7, timeout_seconds=20)
    started = time.monotonic()
    failure = failure_of(lambda: call(session, "hang", 0.3, seconds=30))
    assert (failure.kind, failure.stage) == ("timeout", "call")
    assert time.monotonic() - started < 10
    assert failure_of(lambda: call(session, "echo", text="x")).kind == "sandbox_lost"
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
    told = {"none": "nothing is isolated", "local": "no file or network isolation"}
    assert told.get(sandbox.label.partition(" ")[0].strip(":"), "sessions of one box share a") in sandbox.label


def wait_until(condition, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not so after {seconds} s"
        time.sleep(0.05)


# --- what only processes of their own can promise ---


@pytest.fixture(scope="module", params=FORK)
def forking(request):
    sandbox = open_sandbox(KIOSK, options(request.param))
    yield sandbox
    sandbox.close()


def test_each_session_runs_in_a_process_of_its_own(forking):
    sessions = [forking.open(seed=7, timeout_seconds=20) for _ in range(3)]
    assert len({call(session, "process_id").text for session in sessions}) == 3
    for session in sessions:
        session.close()


def test_a_stuck_neighbour_neither_slows_nor_harms_others(forking):
    stuck, well = forking.open(seed=7, timeout_seconds=20), forking.open(seed=7, timeout_seconds=20)
    call(well, "set_stock", item_id="I1", stock=1234)
    hanging = threading.Thread(target=lambda: failure_of(lambda: call(stuck, "hang_with_child", 1.0)))
    hanging.start()
    started = time.monotonic()
    for _ in range(10):
        assert json.loads(call(well, "get_item", item_id="I1").text)["stock"] == 1234
    assert time.monotonic() - started < 0.9, "the neighbour waited for the stuck tool"
    hanging.join()
    assert json.loads(call(well, "get_item", item_id="I1").text)["stock"] == 1234
    well.close()


def test_a_tool_that_ends_its_process_ends_its_session_alone(forking):
    doomed, well = forking.open(seed=7, timeout_seconds=20), forking.open(seed=7, timeout_seconds=20)
    failure = failure_of(lambda: call(doomed, "end_process", code=4))
    assert (failure.kind, failure.message) == ("tool_crashed", "the session's process ended: exit status 4")
    assert call(well, "echo", text="well").text == "well"
    well.close()


def test_files_that_a_tool_leaves_are_seen_by_its_session_alone(forking):
    for _ in range(2):  # the second session, with or without the first one's end, finds a clean folder
        sessions = [forking.open(seed=7, timeout_seconds=20) for _ in range(2)]
        for session in sessions:
            files = json.loads(call(session, "leave_files").text)
            assert [name[:17] for name in files] == ["left_as_temporary", "left_at_home", "left_here"]
        for session in sessions:
            session.close()


def test_a_tool_finds_stdin_empty(forking):
    session = forking.open(seed=7, timeout_seconds=20)
    assert call(session, "read_stdin").text == "''"
    session.close()


def test_chance_is_the_same_for_siblings_that_do_the_same(forking):
    def throws() -> list[str]:
        session = forking.open(seed=7, timeout_seconds=20)
        texts = [call(session, "dice", kind="d20").text for _ in range(10)]
        session.close()
        return texts

    first = throws()
    assert first == throws()
    assert len(set(first)) > 1


def test_a_group_that_opens_one_new_seed_at_once_gets_one_state(forking):
    with ThreadPoolExecutor(8) as pool:
        sessions = list(pool.map(lambda _: forking.open(seed=424242, timeout_seconds=60), range(8)))
    assert len({call(session, "get_item", item_id="I5").text for session in sessions}) == 1
    for session in sessions:
        session.close()


# --- a box that goes away ---


@pytest.mark.parametrize("kind", FORK)
def test_a_killed_box_loses_its_sessions_at_once_and_the_next_open_starts_a_fresh_one(kind):
    sandbox = open_sandbox(KIOSK, options(kind))
    try:
        session, waiting = (sandbox.open(seed=7, timeout_seconds=20) for _ in range(2))
        failures = []
        caller = threading.Thread(target=lambda: failures.append(failure_of(lambda: call(waiting, "hang", seconds=30))))
        caller.start()
        time.sleep(0.2)
        _kill_box(sandbox, session)
        caller.join(timeout=10)
        assert [failure.kind for failure in failures] == ["sandbox_lost"]
        assert failure_of(lambda: call(session, "echo", text="x")).kind == "sandbox_lost"
        assert failure_of(lambda: session.diff(timeout_seconds=5)).stage == "diff"
        session.close()
        assert call(sandbox.open(seed=7, timeout_seconds=30), "echo", text="back").text == "back"
    finally:
        sandbox.close()


def _kill_box(sandbox, session) -> None:
    transport = sandbox._box._transport
    if hasattr(transport, "container"):  # pid 1 is out of reach of its children
        transport._api.kill(transport.container)
    else:
        failure_of(lambda: call(session, "kill_parent"))


@pytest.mark.skipif(sys.platform != "linux", reason="counts through /proc")
@pytest.mark.parametrize("kind", FORK)
def test_lost_and_closed_boxes_leave_no_descriptor_and_no_thread_behind(kind):
    def lose_one() -> None:
        sandbox = open_sandbox(KIOSK, options(kind))
        _kill_box(sandbox, sandbox.open(seed=7, timeout_seconds=30))
        while sandbox._box.lost is None:
            time.sleep(0.01)
        sandbox.describe()
        sandbox.close()

    def held() -> tuple[int, int]:
        gc.collect()
        return len(os.listdir("/proc/self/fd")), threading.active_count()

    lose_one()  # what is opened once, as the connection to the engine
    descriptors, threads = held()
    for _ in range(4):
        lose_one()
    wait_until(lambda: held()[0] <= descriptors and held()[1] <= threads)


def test_garbage_on_the_wire_loses_the_box():
    sandbox = open_sandbox(KIOSK, options(("local", "fork")))
    session = sandbox.open(seed=7, timeout_seconds=20)
    sandbox._box._deliver = lambda reply: (_ for _ in ()).throw(ValueError("not a reply"))
    failure = failure_of(lambda: call(session, "echo", text="x"))
    assert failure.kind == "sandbox_lost"
    assert "broke the protocol" in failure.message
    sandbox.close()


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
    with pytest.raises(SpecError, match=r"broken.py: cannot be imported(.|\n)*No module named 'module_that_is_not_there'"):
        open_sandbox(App(tmp_path, ("broken.py",)), options(kind)).describe()


@pytest.mark.parametrize("kind", EVERY)
def test_an_app_without_tables_works(kind, tmp_path):
    (tmp_path / "tools.py").write_text('def up(text: str) -> str:\n    """Shouts."""\n    return text.upper()\n')
    sandbox = open_sandbox(App(tmp_path, ("tools.py",)), options(kind))
    session = sandbox.open(seed=0, timeout_seconds=20)
    assert call(session, "up", text="a").text == "A"
    assert session.diff(timeout_seconds=20) == {}
    sandbox.close()


# --- local processes ---


@pytest.mark.parametrize("kind", LOCAL)
def test_a_local_box_gets_no_secrets_of_its_owner(kind, monkeypatch):
    monkeypatch.setenv("MY_API_KEY", "secret")
    sandbox = open_sandbox(KIOSK, options(kind))
    environment = json.loads(call(sandbox.open(seed=7, timeout_seconds=20), "environment").text)
    assert "MY_API_KEY" not in environment
    assert environment["TZ"] == "UTC"
    sandbox.close()


def test_closing_a_session_ends_its_process_and_what_that_started():
    sandbox = open_sandbox(KIOSK, options(("local", "fork")))
    session = sandbox.open(seed=7, timeout_seconds=20)
    pid = int(call(session, "process_id").text)
    caller = threading.Thread(target=lambda: failure_of(lambda: call(session, "hang_with_child")))
    caller.start()
    time.sleep(0.3)
    session.close()
    caller.join(timeout=10)
    wait_until(lambda: not _living_of_group(pid))
    sandbox.close()


def _living_of_group(group: int) -> list[str]:
    lines = subprocess.run(["ps", "-eo", "pgid=,stat="], capture_output=True, text=True, check=True).stdout.splitlines()
    return [line for line in lines if line.split()[0] == str(group) and "Z" not in line]


def test_a_closed_session_leaves_no_file_and_a_closed_sandbox_no_folder():
    sandbox = open_sandbox(KIOSK, options(("local", "fork")))
    session = sandbox.open(seed=7, timeout_seconds=20)
    scratch = Path(json.loads(call(session, "environment").text)["TMPDIR"]).parent
    call(session, "leave_files")
    assert len(list(scratch.rglob("left*"))) == 3
    session.close()
    sandbox.open(seed=7, timeout_seconds=20)  # answered in order: by now the close is done
    assert not list(scratch.rglob("left*"))
    sandbox.close()
    assert not scratch.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="counts through /proc")
def test_a_hundred_episodes_leave_no_descriptor_thread_or_process_behind():
    sandbox = open_sandbox(KIOSK, options(("local", "fork")))

    def held() -> tuple[int, ...]:
        sandbox._box.request("ping", stage="open", timeout_seconds=20)
        agent = sandbox._box._transport._process.pid
        children = Path(f"/proc/{agent}/task/{agent}/children").read_text().split()
        return len(os.listdir("/proc/self/fd")), len(os.listdir(f"/proc/{agent}/fd")), threading.active_count(), len(children)

    def episodes(count: int) -> None:
        for seed in range(count):
            session = sandbox.open(seed=seed % 5, timeout_seconds=20)
            call(session, "set_stock", item_id="I1", stock=1)
            session.close()

    episodes(10)
    before = held()
    episodes(100)
    assert held() == before
    sandbox.close()


def test_a_forked_owner_gets_a_box_of_its_own():
    sandbox = open_sandbox(KIOSK, options(("local", "fork")))
    session = sandbox.open(seed=7, timeout_seconds=20)
    pid = os.fork()
    if pid == 0:
        text = call(sandbox.open(seed=7, timeout_seconds=20), "echo", text="child").text
        sandbox.close()
        os._exit(0 if text == "child" else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert call(session, "echo", text="parent").text == "parent"
    sandbox.close()


def test_a_signal_for_the_terminals_group_does_not_reach_the_box():
    sandbox = open_sandbox(KIOSK, options(("local", "fork")))
    sandbox.describe()
    assert os.getpgid(sandbox._box._transport._process.pid) != os.getpgid(0)
    sandbox.close()
