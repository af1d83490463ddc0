"""Guarantees of sandboxes whose sessions have their own processes."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from envgym.sandbox.backends import open_sandbox
from tests.fakes.kiosk_app import FORK, KIOSK, call, failure_of, options


@pytest.fixture(scope="module", params=FORK)
def forking(request):
    sandbox = open_sandbox(KIOSK, options(request.param))
    yield sandbox
    sandbox.close()


def test_each_session_runs_in_a_process_of_its_own(forking):
    sessions = [forking.open(seed=7, timeout_seconds=20) for _ in range(3)]
    assert len({call(session, "process_identity").text for session in sessions}) == 3
    for session in sessions:
        session.close()


def test_a_stuck_neighbour_neither_slows_nor_harms_others(forking):
    stuck = forking.open(seed=7, timeout_seconds=20)
    well = forking.open(seed=7, timeout_seconds=20)
    call(well, "set_stock", item_id="I1", stock=1234)
    hanging = threading.Thread(target=lambda: call(stuck, "hang_with_child", 5.0))
    hanging.start()
    for _ in range(10):
        assert json.loads(call(well, "get_item", item_id="I1").text)["stock"] == 1234
    assert hanging.is_alive(), "the neighbour waited for the stuck tool"
    hanging.join()
    assert json.loads(call(well, "get_item", item_id="I1").text)["stock"] == 1234
    well.close()


def test_a_tool_that_ends_its_process_ends_its_session_alone(forking):
    doomed = forking.open(seed=7, timeout_seconds=20)
    well = forking.open(seed=7, timeout_seconds=20)
    failure = failure_of(lambda: call(doomed, "end_process", code=4))
    assert (failure.kind, failure.message) == (
        "session_ended",
        "the session's process ended: exit status 4",
    )
    assert call(well, "echo", text="well").text == "well"
    well.close()


def test_files_that_a_tool_leaves_are_seen_by_its_session_alone(forking):
    for _ in range(
        2
    ):  # the second session finds a clean folder, whether or not the first has ended
        sessions = [forking.open(seed=7, timeout_seconds=20) for _ in range(2)]
        for session in sessions:
            files = json.loads(call(session, "leave_files").text)
            assert [name[:17] for name in files] == [
                "left_as_temporary",
                "left_at_home",
                "left_here",
            ]
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
