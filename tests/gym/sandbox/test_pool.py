"""A pool of containers: start, maximum size, end of life, and behaviour without a container."""

import contextlib
import shutil
import sys
import threading
import time
from pathlib import Path

import pytest

from envgym.errors import WorldFailure
from envgym.sandbox import App
from envgym.sandbox.backends import open_sandbox
from envgym.sandbox.box import pool as pools
from tests.fakes.kiosk_app import KIOSK, call, failure_of, options, wait_until

FORK = ("local", "fork")
STATE = ("local", "state")


@pytest.fixture
def sandboxes():
    """Function that opens kiosk sandboxes with given pool settings. The fixture closes them."""
    opened = []

    def open_one(kind=FORK, app=KIOSK, **pool):
        opened.append(open_sandbox(app, options(kind, pool=pool)))
        return opened[-1]

    yield open_one
    for sandbox in opened:
        sandbox.close()


def opened(sandbox, seed=7, seconds=20.0):
    return sandbox.open(seed=seed, timeout_seconds=seconds)


def counts(sandbox, name) -> float:
    return sandbox.statistics.snapshot().get(name, 0)


def test_a_box_is_filled_before_the_next_one_starts(sandboxes):
    sandbox = sandboxes(boxes=3, sessions=2)
    sessions = [opened(sandbox) for _ in range(2)]
    assert len(sandbox.pool.boxes) == 1
    sessions.append(opened(sandbox))
    assert len(sandbox.pool.boxes) == 2
    for session in sessions:
        session.close()


def test_when_all_boxes_are_full_an_open_waits_for_room(sandboxes):
    sandbox = sandboxes(boxes=1, sessions=1)
    first = opened(sandbox)
    assert (
        failure_of(lambda: opened(sandbox, seconds=0.3)).message
        == "none of 1 boxes had room in time"
    )
    threading.Timer(0.3, first.close).start()
    opened(sandbox).close()
    assert (
        counts(sandbox, "pool/waits") == 2
    )  # the first call, which started the container, and this one


@pytest.mark.parametrize(
    ("rule", "reason"), [({"episodes": 1}, "episodes"), ({"seconds": 0.01}, "age")]
)
def test_a_box_that_has_served_enough_ends_and_is_replaced(sandboxes, rule, reason):
    sandbox = sandboxes(boxes=1, recycle=rule)
    session = opened(sandbox)
    box = sandbox.pool.boxes[0]
    time.sleep(0.02)  # the container now exceeds its maximum age
    session.close()
    assert counts(sandbox, f"recycled/{reason}") == 1
    wait_until(lambda: box.lost is not None)
    wait_until(lambda: len(sandbox.pool.boxes) == 1)  # started in the background before a request
    opened(sandbox).close()


def test_a_box_goes_with_its_last_session_and_no_earlier(sandboxes):
    sandbox = sandboxes(boxes=1, recycle={"episodes": 2})
    stays = opened(sandbox)
    ends = opened(sandbox)
    ends.close()
    other = opened(
        sandbox
    )  # a second container although the maximum is one: the first only waits for its end
    assert call(stays, "echo", text="still served").text == "still served"
    for session in (stays, other):
        session.close()


def test_a_box_whose_memory_grows_is_replaced(sandboxes, monkeypatch):
    monkeypatch.setattr(pools, "LOOK_EVERY", 1)
    sandbox = sandboxes(STATE, boxes=1, recycle={"growth_mb": 20})
    for megabytes in (1, 40):
        assert counts(sandbox, "recycled/memory") == 0
        session = opened(sandbox)
        call(session, "keep_memory", megabytes=megabytes)
        session.close()
    assert counts(sandbox, "recycled/memory") == 1


def test_a_box_in_which_a_session_left_a_file_is_replaced(sandboxes):
    sandbox = sandboxes(boxes=1)
    first = opened(sandbox)
    box = sandbox.pool.boxes[0]
    call(first, "write_file", path="../left_for_the_next")
    first.close()
    wait_until(lambda: counts(sandbox, "recycled/dirty") == 1)
    opened(sandbox).close()
    assert box not in sandbox.pool.boxes


@pytest.mark.skipif(
    sys.platform != "linux", reason="a process that leaves its group can be found on Linux only"
)
def test_a_program_that_left_its_group_ends_with_its_session_and_the_box_stays(sandboxes):
    sandbox = sandboxes()
    session = opened(sandbox)
    other = opened(sandbox)
    strays = [int(call(each, "start_daemon").text) for each in (session, other)]
    session.close()
    wait_until(lambda: not is_running(strays[0]))
    assert is_running(strays[1]), "that of a session which goes on"
    other.close()
    wait_until(lambda: not is_running(strays[1]))
    assert counts(sandbox, "recycled/dirty") == 0


def is_running(pid: int) -> bool:
    """Return whether a process has this number in its own namespace, that of a box for example."""
    for file in Path("/proc").glob("[1-9]*/status"):
        with contextlib.suppress(OSError):
            numbers = [line for line in file.read_text().splitlines() if line.startswith("NSpid:")]
            if numbers and numbers[0].split()[-1] == str(pid):
                return True
    return False


@pytest.mark.skipif(
    shutil.which("bwrap") is None,
    reason="NOT TESTED, no bubblewrap: install the package `bubblewrap`",
)
def test_with_isolation_container_each_session_has_a_fresh_box_and_others_wait_ready(sandboxes):
    sandbox = sandboxes(("bubblewrap", "container"), ready=2)
    opened(sandbox).close()
    wait_until(lambda: len(sandbox.pool.boxes) == 2)
    hits = counts(sandbox, "pool/hits")
    for turn in range(2):
        box = sandbox.pool.boxes[0]
        session = opened(sandbox)
        session.close()
        wait_until(lambda box=box: box.lost is not None)
        assert counts(sandbox, "pool/hits") == hits + turn + 1
        wait_until(lambda: len(sandbox.pool.boxes) == 2)
    assert counts(sandbox, "recycled/used") == 3


def test_while_no_box_can_be_started_an_open_waits_and_the_pool_tries_again(sandboxes):
    sandbox = sandboxes(boxes=1)
    opened(sandbox).close()
    start = sandbox._start
    attempts = []

    def engine_is_away():
        attempts.append(time.monotonic())
        if len(attempts) < 3:
            raise WorldFailure("sandbox_lost", "the engine restarts", stage="open")
        return start()

    sandbox._start = engine_is_away
    sandbox.pool.boxes[0].end("as when an engine goes away")
    opened(sandbox).close()
    first, second, third = attempts
    assert third - second > second - first > pools.FIRST_PAUSE_SECONDS / 2


def test_at_its_deadline_an_open_says_why_no_box_can_be_started(sandboxes):
    sandbox = sandboxes(boxes=1)
    opened(sandbox).close()

    def engine_is_away():
        raise WorldFailure("sandbox_lost", "the engine restarts", stage="open")

    sandbox._start = engine_is_away
    sandbox.pool.boxes[0].end("as when an engine goes away")
    failure = failure_of(lambda: opened(sandbox, seconds=0.5))
    assert (failure.kind, failure.stage) == ("sandbox_lost", "open")
    assert "the engine restarts" in failure.message


def test_one_seed_that_gives_two_states_is_found_and_voids_the_episode(sandboxes, tmp_path):
    (tmp_path / "tools.py").write_text('def look(db) -> str:\n    """Look."""\n    return ""\n')
    (tmp_path / "schema.sql").write_text("CREATE TABLE rows (id INTEGER PRIMARY KEY);")
    row = "db.execute('INSERT INTO rows VALUES (?)', (os.getpid(),))"
    (tmp_path / "seed.py").write_text(f"import os\n\ndef fill(db, seed):\n    {row}\n")
    sandbox = sandboxes(
        app=App(tmp_path, ("tools.py",), "schema.sql", "seed.py:fill"),
        boxes=1,
        recycle={"episodes": 1},
    )
    opened(sandbox).close()
    failure = failure_of(lambda: opened(sandbox))
    assert failure.kind == "state_differs"
    assert "the seed function depends on more than its seed" in failure.message
