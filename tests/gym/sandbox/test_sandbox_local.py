"""A sandbox in a local process: what it does not inherit, and that closing it leaves nothing."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from envgym.sandbox.backends import open_sandbox
from tests.fakes.kiosk_app import KIOSK, LOCAL, call, failure_of, options, wait_until


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
    lines = subprocess.run(
        ["ps", "-eo", "pgid=,stat="], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    return [line for line in lines if line.split()[0] == str(group) and "Z" not in line]


def test_a_closed_session_leaves_no_file_and_a_closed_sandbox_no_folder():
    sandbox = open_sandbox(KIOSK, options(("local", "fork")))
    session = sandbox.open(seed=7, timeout_seconds=20)
    scratch = Path(json.loads(call(session, "environment").text)["TMPDIR"]).parent
    call(session, "leave_files")
    assert len(list(scratch.rglob("left*"))) == 3
    session.close()
    sandbox.open(seed=7, timeout_seconds=20)  # calls are answered in order, so the close is done
    assert not list(scratch.rglob("left*"))
    sandbox.close()
    assert not scratch.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="counts through /proc")
def test_a_hundred_episodes_leave_no_descriptor_thread_or_process_behind():
    sandbox = open_sandbox(KIOSK, options(("local", "fork")))

    def held() -> tuple[int, ...]:
        sandbox.pool.boxes[0].request("ping", stage="open", timeout_seconds=20)
        agent = sandbox.pool.boxes[0].transport.process.pid
        children = Path(f"/proc/{agent}/task/{agent}/children").read_text().split()
        return (
            len(os.listdir("/proc/self/fd")),
            len(os.listdir(f"/proc/{agent}/fd")),
            threading.active_count(),
            len(children),
        )

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
    assert os.getpgid(sandbox.pool.boxes[0].transport.process.pid) != os.getpgid(0)
    sandbox.close()
