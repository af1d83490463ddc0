"""Lock of a run folder: who may write, stale locks, and what happens when the holder dies."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from envgym.errors import UsageError
from envgym_trainer.run.folder import RunFolder
from envgym_trainer.run.lock import LOCK, Holder, is_alive, process_start, read_lock

HOLD = """
import signal, sys, time
from pathlib import Path
from envgym_trainer.run.lock import locked
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
try:
    with locked(Path(sys.argv[1]), notify=print):
        print("locked", flush=True)
        {what}
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.fixture
def run(tmp_path):
    return RunFolder.create(tmp_path, "r")


def holding(run, what="time.sleep(600)"):
    """Start a process that takes the lock of a run, and wait until it has it."""
    command = [sys.executable, "-c", HOLD.format(what=what), str(run.path)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout.readline() == "locked\n"
    return process


def end(process, number=signal.SIGKILL):
    process.send_signal(number)
    process.wait(timeout=30)


def take(run):
    """Take and release the lock; return the lines that were printed."""
    told = []
    with run.locked(told.append):
        assert read_lock(run.path).pid == os.getpid()
    return told


def write(run, **changed):
    holder = dataclasses.replace(Holder.this_process(), **changed)
    (run.path / LOCK).write_text(json.dumps(dataclasses.asdict(holder)))
    return holder


def test_a_lock_names_owner_host_and_process_and_is_gone_afterwards(run):
    with run.locked(pytest.fail):
        found = json.loads((run.path / LOCK).read_text())
        assert found["pid"] == os.getpid()
        assert found["host"] == os.uname().nodename
        assert found["owner"]
    assert not (run.path / LOCK).exists()
    assert take(run) == []


@pytest.mark.parametrize("stopped", [False, True], ids=["running", "stopped by SIGSTOP"])
def test_a_second_process_is_refused_with_one_line_that_names_the_first(run, stopped):
    process = holding(run)
    if stopped:
        process.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(UsageError, match=f"is in use: process {process.pid} of") as error:
            take(run)
        with pytest.raises(UsageError, match="is in use"):
            run.check_free()
        assert len(str(error.value).splitlines()) == 1
        assert f"kill -INT {process.pid}" in str(error.value)
        assert read_lock(run.path).pid == process.pid
    finally:
        end(process)


def test_a_second_run_in_the_same_process_is_refused(run):
    with run.locked(pytest.fail), pytest.raises(UsageError, match="is in use"):
        take(run)
    assert take(run) == []


def test_the_lock_of_a_killed_process_is_taken_over_with_a_line(run):
    process = holding(run)
    end(process, signal.SIGKILL)
    assert read_lock(run.path).pid == process.pid
    run.check_free()
    (line,) = take(run)
    assert f"took over the lock of process {process.pid}" in line


def test_a_zombie_counts_as_dead(run):
    process = holding(run)
    process.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 30
    while process_start(process.pid):  # killed and not yet waited for
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert len(take(run)) == 1
    process.wait()


@pytest.mark.parametrize(
    ("what", "number", "code"),
    [
        ("time.sleep(600)", signal.SIGINT, 130),
        ("raise RuntimeError", None, 1),
        ("sys.exit(3)", None, 3),
    ],
    ids=["Ctrl-C", "error", "exit"],
)
def test_the_lock_is_released_however_the_run_ends(run, what, number, code):
    process = holding(run, what)
    if number is not None:
        process.send_signal(number)
    assert process.wait(timeout=30) == code
    assert not (run.path / LOCK).exists()


def test_a_reused_process_id_does_not_keep_a_lock(run):
    write(run, started="1")  # this process has started later
    assert len(take(run)) == 1


def test_a_lock_from_before_the_machine_was_started_again_is_stale(run):
    write(run, boot="another boot")
    assert len(take(run)) == 1


@pytest.mark.parametrize(
    "changed",
    [
        {"host": "node7"},
        {"machine": "another machine with this name"},
        {"namespace": "pid:[1]"},
        {"host": "node7", "pid": 2**22 + 1},
    ],
)
def test_a_lock_that_cannot_be_checked_is_kept_and_the_way_out_is_told(run, changed):
    holder = write(run, **changed)
    with pytest.raises(UsageError, match=f"remove the lock and try again: rm .*{LOCK}"):
        take(run)
    assert read_lock(run.path) == holder
    (run.path / LOCK).unlink()
    assert take(run) == []


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": 1}', "\x00", '{"pid": 1, "more": 2}'])
def test_a_damaged_lock_is_told_with_the_way_out(run, content):
    (run.path / LOCK).write_text(content)
    with pytest.raises(UsageError, match=f"{LOCK} cannot be read .* rm "):
        take(run)


def test_a_lock_that_another_process_took_over_is_not_removed(run):
    with run.locked(pytest.fail):
        other = write(run, host="node7")
    assert read_lock(run.path) == other


def test_a_folder_that_is_removed_while_it_is_locked_needs_no_release(run):
    with run.locked(pytest.fail):
        (run.path / LOCK).unlink()
        run.path.rmdir()
    assert not run.path.exists()


def test_of_many_that_take_over_a_stale_lock_at_once_one_wins(run):
    write(run, started="1")
    ready = threading.Barrier(8)
    results = []

    def go():
        ready.wait()
        try:
            with run.locked(lambda line: None):
                results.append("locked")
                done.wait(timeout=30)
        except UsageError:
            results.append("refused")

    done = threading.Event()
    threads = [threading.Thread(target=go) for _ in range(8)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 30
    while len(results) < 8 and time.monotonic() < deadline:
        time.sleep(0.01)
    done.set()
    for thread in threads:
        thread.join()
    assert sorted(results) == ["locked"] + ["refused"] * 7


def test_this_process_is_alive_and_one_without_a_readable_start_time_is_unknown():
    own = Holder.this_process()
    assert is_alive(own, own) is True
    assert is_alive(dataclasses.replace(own, pid=2**22 + 1), own) is False
