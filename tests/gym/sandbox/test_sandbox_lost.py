"""A lost container ends its sessions at once; the next session gets a new one."""

import os
import signal
import sys
import threading
import time

import pytest

from envgym.sandbox.backends import open_sandbox
from tests.fakes.kiosk_app import FORK, KIOSK, call, failure_of, options, wait_until


def kill_boxes(sandbox) -> None:
    """Kill all containers from outside, as an out-of-memory killer does, and wait for detection."""
    boxes = sandbox.pool.boxes
    for transport in [box.transport for box in boxes]:
        if hasattr(transport, "container"):
            transport._api.kill(transport.container)
        else:
            os.kill(transport.process.pid, signal.SIGKILL)
    wait_until(lambda: all(box.lost is not None for box in boxes))


@pytest.mark.parametrize("kind", FORK)
def test_a_killed_box_loses_its_sessions_at_once_and_the_next_open_starts_a_fresh_one(kind):
    sandbox = open_sandbox(KIOSK, options(kind))
    try:
        session, waiting = (sandbox.open(seed=7, timeout_seconds=20) for _ in range(2))
        failures = []
        caller = threading.Thread(
            target=lambda: failures.append(failure_of(lambda: call(waiting, "hang", seconds=30)))
        )
        caller.start()
        time.sleep(0.2)
        kill_boxes(sandbox)
        caller.join(timeout=10)
        assert [failure.kind for failure in failures] == ["sandbox_lost"]
        assert failure_of(lambda: call(session, "echo", text="x")).kind == "sandbox_lost"
        assert failure_of(lambda: session.diff(timeout_seconds=5)).stage == "diff"
        session.close()
        assert call(sandbox.open(seed=7, timeout_seconds=30), "echo", text="back").text == "back"
    finally:
        sandbox.close()


@pytest.mark.skipif(sys.platform != "linux", reason="counts through /proc")
@pytest.mark.parametrize("kind", FORK)
def test_lost_and_closed_boxes_leave_no_descriptor_and_no_thread_behind(kind):
    kept = []  # keeps sessions alive: their close must not depend on garbage collection

    def lose_one() -> None:
        sandbox = open_sandbox(KIOSK, options(kind))
        kept.append(sandbox.open(seed=7, timeout_seconds=30))
        kill_boxes(sandbox)
        sandbox.describe()  # starts another container
        kept.append(sandbox.pool.boxes[0])
        sandbox.close()

    def held() -> tuple[int, int]:
        return len(os.listdir("/proc/self/fd")), threading.active_count()

    lose_one()  # opens descriptors that stay open, such as the connection to the engine
    time.sleep(0.5)  # threads of these containers end shortly afterwards
    descriptors, threads = held()
    for _ in range(5):
        lose_one()
    wait_until(lambda: held()[0] <= descriptors and held()[1] <= threads)


def test_garbage_on_the_wire_loses_the_box():
    sandbox = open_sandbox(KIOSK, options(("local", "fork")))
    session = sandbox.open(seed=7, timeout_seconds=20)
    sandbox.pool.boxes[0]._deliver = lambda reply: (_ for _ in ()).throw(ValueError("not a reply"))
    failure = failure_of(lambda: call(session, "echo", text="x"))
    assert failure.kind == "sandbox_lost"
    assert "broke the protocol" in failure.message
    sandbox.close()
