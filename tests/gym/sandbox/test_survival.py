"""The agent, its judges and other sessions survive what a session does to them.

Signals, killed judges, full disks, full process tables, descriptors in flight, and an owner that is
killed.
"""

import contextlib
import subprocess
import sys
import time
from pathlib import Path

import pytest

from envgym.errors import WorldFailure
from envgym.sandbox.agent.fork.judge import TABLE
from envgym.sandbox.backends import open_sandbox
from tests.fakes import ROOT
from tests.fakes.kiosk_app import BUBBLEWRAP, DOCKER, LOCAL, call, failure_of, options
from tests.gym.sandbox.test_judge import CODER, PAID, finish, run, shell

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="NOT TESTED: attacks use /proc")
PLAIN = [LOCAL[1], BUBBLEWRAP[1], BUBBLEWRAP[2], DOCKER[1]]
"""Backends whose sessions see the agent's process."""
WALLED = [BUBBLEWRAP[1], BUBBLEWRAP[2], *DOCKER[1:]]
"""Backends whose sessions have disks and process tables with limits."""
PAY = "db.execute('UPDATE items SET price = 777 WHERE id = 1')"


@pytest.fixture
def opened():
    """Return a function that opens a sandbox, which is closed after the test."""
    with contextlib.ExitStack() as stack:

        def open_kind(kind, **more):
            is_single = kind[1] == "container"
            pool = {"boxes": 3, "ready": 1} if is_single else {"boxes": 3, "sessions": 8}
            sandbox = open_sandbox(CODER, options(kind, pool=pool, tmpfs_mb=16, **more))
            return stack.enter_context(contextlib.closing(sandbox))

        yield open_kind


@pytest.fixture
def pair(request, opened):
    """Return an attacker and a neighbour, in one box if the level permits it."""
    sandbox = opened(request.param)
    return [sandbox.open(seed=7, timeout_seconds=60) for _ in range(2)]


def assert_well(session) -> None:
    assert shell(session, "cat rates.txt") == "7\n"
    run(session, PAY)
    assert session.diff(timeout_seconds=20) == PAID
    assert finish(session) == PAID


# --- signals ---

TO_THE_AGENT = {
    "from the session": """
import os, signal
for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
    os.kill(os.getppid(), number)
""",
    "from programs": """
import os, subprocess
subprocess.run(["sh", "-c", "for n in 1 2 3 6 10 12 13 14 15 20 21 22 24 26 27 29 34 64; do "
                f"kill -$n {os.getppid()}; done"])
""",
    "from many at once": """
import os, signal
senders, agent = [], os.getppid()
for _ in range(20):
    pid = os.fork()
    if not pid:
        for _ in range(50):
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGTSTP, signal.SIGALRM):
                os.kill(agent, number)
        os._exit(0)
    senders.append(pid)
for pid in senders:
    os.waitpid(pid, 0)
""",
}


@pytest.mark.parametrize("signals", TO_THE_AGENT)
@pytest.mark.parametrize("pair", PLAIN, indirect=True)
def test_the_agent_survives_every_signal(pair, signals):
    attacker, neighbour = pair
    run(attacker, TO_THE_AGENT[signals])
    assert_well(attacker)
    assert_well(neighbour)


@pytest.mark.parametrize("number", ["HUP", "INT", "QUIT", "USR1", "ALRM", "TERM", "TSTP", "34"])
@pytest.mark.parametrize("pair", PLAIN[:3], indirect=True)
def test_a_signal_to_the_sessions_process_does_nothing(pair, number):
    attacker, _ = pair
    assert shell(attacker, f"kill -{number} $PPID; sleep 0.1; echo lives") == "lives\n"
    assert_well(attacker)


@pytest.mark.parametrize("pair", PLAIN[:3], indirect=True)
def test_a_stopped_process_has_ended_its_own_session_and_its_state_counts(pair):
    attacker, neighbour = pair
    run(attacker, PAY)
    failure = failure_of(
        lambda: call(attacker, "shell", 1.5, command="kill -STOP $PPID; sleep 0.1")
    )
    assert (failure.kind, "stopped" in failure.message) == ("session_ended", True)
    assert finish(attacker) == PAID
    assert_well(neighbour)


@pytest.mark.parametrize("pair", PLAIN[:1], indirect=True)
def test_programs_and_forks_of_a_tool_take_signals_as_usual(pair):
    code = """
import os, signal, subprocess, time
for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGVTALRM):
    program = subprocess.Popen(["sleep", "60"])
    program.send_signal(number)
    fork = os.fork()
    if not fork:
        time.sleep(60)
        os._exit(0)
    time.sleep(0.05)
    os.kill(fork, number)
    say(program.wait() == os.waitstatus_to_exitcode(os.waitpid(fork, 0)[1]) == -number)
"""
    assert run(pair[0], code) == "\n".join(["True"] * 5)


# --- judges ---

KILL_SIBLINGS = """
import os, signal
agent = os.getppid()
for pid in open(f"/proc/{{agent}}/task/{{agent}}/children").read().split():
    if int(pid) != os.getpid():
        os.kill(int(pid), signal.{signal})
"""
KEEP_KILLING = """
import os, signal, time
agent, own = os.getppid(), os.getpid()
if not os.fork():
    os.setsid()
    while True:
        for pid in open(f"/proc/{agent}/task/{agent}/children").read().split():
            if int(pid) not in (own, os.getpid()):
                try:
                    os.kill(int(pid), signal.SIGKILL)
                except OSError:
                    pass
"""


@pytest.mark.parametrize("number", ["SIGKILL", "SIGSTOP", "SIGTERM", "SIGPROF"])
@pytest.mark.parametrize("kind", PLAIN[:3])
def test_a_judge_that_is_killed_or_stopped_is_replaced(opened, kind, number):
    sandbox = opened(kind)
    session = sandbox.open(seed=7, timeout_seconds=60)
    run(session, PAY)
    run(session, KILL_SIBLINGS.format(signal=number))
    assert session.diff(timeout_seconds=5) == PAID
    run(session, KILL_SIBLINGS.format(signal=number))
    assert finish(session) == PAID


@pytest.mark.parametrize("kind", PLAIN[:3])
def test_a_process_that_keeps_killing_judges_ends_before_the_last_look(opened, kind):
    sandbox = opened(kind)
    session = sandbox.open(seed=7, timeout_seconds=60)
    run(session, PAY)
    run(session, KEEP_KILLING)
    assert list(session.diff(timeout_seconds=5)) in ([TABLE], ["items"])
    assert finish(session) == PAID


# --- room ---

FILL = {
    "the folder of temporary files": "dd if=/dev/zero of=/tmp/big bs=1M count=40; true",
    "shared memory": "dd if=/dev/zero of=/dev/shm/big bs=1M count=40; true",
    "its own folder": "dd if=/dev/zero of=$HOME/big bs=1M count=40; true",
    "many small files": "i=0; while echo x > /tmp/f$i; do i=$((i+1)); done 2>/dev/null; true",
}


@pytest.mark.parametrize("what", FILL)
@pytest.mark.parametrize("pair", WALLED, indirect=True)
def test_a_full_disk_stops_neither_judge_nor_neighbour_nor_test(pair, what):
    attacker, neighbour = pair
    run(attacker, PAY)
    shell(attacker, FILL[what])
    assert attacker.diff(timeout_seconds=20) == PAID
    assert_well(neighbour)
    assert attacker.finish(timeout_seconds=20, keep_files=True) == PAID
    told = attacker.verify({"t.py": "print('well')"}, ("python", "t.py"), timeout_seconds=20)
    assert (told.exit_code, told.output) == (0, "well\n")


@pytest.mark.parametrize("kind", WALLED)
def test_sessions_open_after_one_has_filled_the_disk(opened, kind):
    sandbox = opened(kind)
    attacker = sandbox.open(seed=7, timeout_seconds=60)
    shell(attacker, FILL["the folder of temporary files"])
    beside = sandbox.open(seed=7, timeout_seconds=60)
    attacker.close()
    later = sandbox.open(seed=8, timeout_seconds=60)
    assert finish(beside) == finish(later) == {}


TABLES = {
    "processes": """
import os, time
for _ in range(2000):
    try:
        if not os.fork():
            time.sleep(600)
            os._exit(0)
    except OSError:
        break
""",
    "descriptors": """
import os
held = []
try:
    while True:
        held.append(os.open("/dev/null", os.O_RDONLY))
except OSError:
    for number in held[:20]:
        os.close(number)
import builtins
builtins.held = held
""",
    "descriptors in flight": """
import builtins, os, socket
kept = builtins.kept = []
null = os.open("/dev/null", os.O_RDONLY)
try:
    while True:
        pair = socket.socketpair()
        kept.append(pair)
        try:
            while True:
                pair[0].setblocking(False)
                socket.send_fds(pair[0], [b"x"], [null] * 200)
        except BlockingIOError:
            pass
except OSError:
    pass
""",
}


@pytest.mark.parametrize("what", TABLES)
@pytest.mark.parametrize("kind", WALLED)
def test_a_full_table_of_processes_or_descriptors_stops_neither_judge_nor_others(
    opened, kind, what
):
    sandbox = opened(kind, max_processes=100, max_open_files=256)
    attacker, neighbour = (sandbox.open(seed=7, timeout_seconds=60) for _ in range(2))
    run(attacker, PAY)
    run(attacker, TABLES[what])
    assert attacker.diff(timeout_seconds=10) == PAID
    assert neighbour.diff(timeout_seconds=10) == {}
    later = sandbox.open(seed=8, timeout_seconds=60)
    assert finish(later) == {}
    assert finish(attacker) == PAID
    assert finish(neighbour) == {}


# --- an owner that is killed ---

OWNER = """
import sys, threading
from envgym.sandbox.backends import open_sandbox
from tests.fakes.kiosk_app import call, options
from tests.gym.sandbox.test_judge import CODER
sandbox = open_sandbox(CODER, options(("local", sys.argv[1])))
session = sandbox.open(seed=7, timeout_seconds=60)
print(call(session, "shell", command=sys.argv[2]).text, sandbox.pool.boxes[0].transport.scratch)
sys.stdout.flush()
if sys.argv[3] == "busy":
    call(session, "python", timeout_seconds=600, code="while True: pass")
threading.Event().wait()
"""
STARTS = {
    "in a session of its own": "setsid sleep 600 >/dev/null 2>&1 & echo $!",
    "by a parent that has ended": "(sleep 600 >/dev/null 2>&1 & echo $!) ",
    "twice, without signals": "nohup setsid sh -c 'trap \"\" HUP TERM INT; sleep 600 & sleep 600' "
    ">/dev/null 2>&1 & echo $!",
}


@pytest.mark.parametrize("state", ["idle", "busy"])
@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("level", ["state", "fork"])
def test_what_a_tool_started_ends_with_a_killed_owner(level, start, state):
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, level, STARTS[start], state],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    first = owner.stdout.readline().strip()
    scratch = first.partition(" ")[2] or owner.stdout.readline().strip()
    pid = number_outside(first.partition(" ")[0])
    owner.kill()
    owner.communicate()
    deadline = time.monotonic() + 15
    while is_alive(pid) or Path(scratch).exists():
        assert time.monotonic() < deadline, "it lives on"
        time.sleep(0.05)


def number_outside(pid: str) -> str:
    """Return the process id, as this process sees it, of a process with an id in its own box."""
    for status in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError):
            if status.read_text().partition("NSpid:")[2].partition("\n")[0].split()[-1:] == [pid]:
                return status.parent.name
    raise AssertionError(f"no process has the id {pid} in its box")


def is_alive(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_call_after_the_end_of_the_process_is_no_failure_of_the_box(opened):
    sandbox = opened(("local", "fork"))
    session = sandbox.open(seed=7, timeout_seconds=60)
    run(session, "import os; os._exit(3)")
    with pytest.raises(WorldFailure, match="no session"):
        call(session, "shell", command="true")
    assert finish(session) == {}


def test_a_process_id_inside_a_local_box_names_no_process_of_the_machine(opened):
    sandbox = opened(("local", "fork"))
    if "no file or network isolation" in sandbox.label:
        pytest.skip("NOT TESTED: the kernel gives this box no process ids of its own")
    session = sandbox.open(seed=7, timeout_seconds=60)
    inside = int(shell(session, "echo $$"))
    assert inside > max(int(path.name) for path in Path("/proc").glob("[1-9]*"))
