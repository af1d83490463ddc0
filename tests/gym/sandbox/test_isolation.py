"""Isolation between sessions, agent, container and host, measured from inside at each level.

Two sessions share one sandbox: a neighbour that leaves marks, and a spy. At level `fork` they
share a user id; `SHARED` lists the consequences. Left out are `state`, whose sessions share a
process, and `local`, which does not isolate.
"""

import json
import signal
import sys

import pytest

from tests.fakes import APPS
from tests.fakes.kiosk_app import call, failure_of
from tests.gym.sandbox.hostile_pairs import WALLS, Pair, as_program, diff_of, on_host

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="NOT TESTED: the proofs ask /proc")
SHARED = {
    "sees the neighbour's programs": True,
    "signals the neighbour's programs": True,
    "limits the neighbour's programs": True,
    "looks into the neighbour's programs": True,
    "lists the folders of all sessions": True,
    "reads the neighbour's files": True,
    "writes the neighbour's files": True,
    "reaches the neighbour's port": True,
    "reaches the neighbour's abstract socket": True,
    "finds the neighbour's POSIX memory": True,
    "finds the neighbour's System V memory": True,
}
"""Attempts that succeed between sessions of one container at level `fork`, and at no other."""


@pytest.fixture(scope="module", params=WALLS)
def pair(request):
    pair = Pair(request.param)
    yield pair
    pair.do(pair.neighbour, "unsettle")
    pair.sandbox.close()


def attempts(pair: Pair) -> dict[str, bool]:
    """Return which of the spy's attempts against its neighbour succeed."""
    do = pair.do
    spy = pair.spy
    programs = pair.found()
    return {
        "sees the neighbour's programs": bool(programs),
        "signals the neighbour's programs": any(
            do(spy, "send_signal", pid=pid) == "done" for pid in programs
        ),
        "limits the neighbour's programs": any(
            do(spy, "limit", pid=pid) == "done" for pid in programs
        ),
        "looks into the neighbour's programs": any(do(spy, "trace", pid=pid) for pid in programs),
        "lists the folders of all sessions": pair.place["file"].split("/")[2]
        in do(spy, "look", path="/tmp").split()
        and len(do(spy, "look", path="/tmp").split()) > 1,
        "reads the neighbour's files": do(spy, "look", path=pair.place["file"]).startswith(
            pair.mark
        ),
        "writes the neighbour's files": do(spy, "write", path=pair.place["file"]) == "done",
        "reaches the neighbour's port": do(spy, "reach", host="127.0.0.1", port=7741) == "done",
        "reaches the neighbour's abstract socket": do(spy, "reach_abstract") == "done",
        "finds the neighbour's POSIX memory": do(spy, "look", path="/dev/shm/hostile-shared")
        == pair.mark,
        "finds the neighbour's System V memory": do(spy, "find_shared_memory") == "done",
    }


# --- the neighbour ---


def test_at_level_fork_neighbours_share_what_a_user_shares_and_at_all_others_nothing(pair):
    expected = SHARED if pair.level == "fork" else dict.fromkeys(SHARED, False)
    assert attempts(pair) == expected


def test_no_process_and_no_agent_can_be_read_not_even_by_what_the_session_starts(
    pair,
):
    keepers = [
        int(line.split()[0]) for line in pair.do(pair.spy, "processes") if pair.mark not in line
    ]
    assert keepers
    assert {pid: as_program(pair.spy, "trace", pid=pid) for pid in keepers} == {
        pid: [] for pid in keepers
    }


def test_no_session_holds_more_than_its_own_files(pair):
    held = [name for name in pair.do(pair.spy, "descriptors") if "state.db" not in name]
    assert held == sorted(["/dev/null", "pipe", "pipe", "socket"])


# --- the container and the host ---


def test_what_tasks_and_rewards_know_is_not_in_the_box(pair):
    names = ["hostile_tasks", "hostile_rewards", "hostile_truth"]
    assert pair.do(pair.spy, "search", names=names) == []
    assert len(pair.do(pair.spy, "search", names=["schema"])) >= 1, (
        "the search finds nothing at all"
    )


OTHERS = (
    "/x",
    "/etc/x",
    "/dev/x",
    "/usr/x",
    "/envgym/x",
    "/envgym/app/hostile/tools.py",
    "/envgym/agent/desk.py",
    "/proc/sys/kernel/core_pattern",
    "/proc/sysrq-trigger",
    "/sys/kernel/x",
)


@pytest.mark.parametrize("path", OTHERS)
def test_nothing_can_be_written_beyond_the_sessions_own_folders(pair, path):
    assert pair.do(pair.spy, "write", path=path) in ("EROFS", "EACCES", "EPERM", "ENOENT")


@pytest.mark.parametrize(
    "path",
    [
        "/root/.bashrc",
        "/root/.ssh",
        "/var/run/docker.sock",
        "/run/docker.sock",
        "/etc/shadow",
        "/proc/kcore",
        str(APPS),
    ],
)
def test_nothing_of_the_host_can_be_read(pair, path):
    assert pair.do(pair.spy, "look", path=path) in ("EACCES", "ENOENT", "EPERM", "ENXIO")


def test_no_setting_of_the_kernel_can_be_written(pair):
    open_to_all = {
        f"/proc/pressure/{what}" for what in ("cpu", "io", "memory", "irq")
    }  # writing sets the writer's own alarm
    open_to_all |= {
        "/proc/sys/kernel/ns_last_pid"
    }  # belongs to the process namespace; writing requires a capability
    assert set(json.loads(call(pair.spy, "writable_settings", 60).text)) <= open_to_all


def test_the_processes_of_the_host_are_not_there(pair):
    assert on_host("pytest")
    assert not any("pytest" in line for line in pair.do(pair.spy, "processes"))


@pytest.mark.parametrize(
    ("host", "port"), [("1.1.1.1", 80), ("172.17.0.1", 22), ("169.254.169.254", 80)]
)
def test_no_network_is_reached(pair, host, port):
    assert pair.do(pair.spy, "reach", host=host, port=port) == "ENETUNREACH"


def test_nobody_becomes_root_in_a_namespace_of_their_own(pair):
    assert pair.do(pair.spy, "unshare") in ("EPERM", "ENOSPC")
    assert as_program(pair.spy, "unshare") in ("EPERM", "ENOSPC")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_no_signal_ends_or_stops_process_1(pair, number):
    as_program(pair.spy, "send_signal", pid=1, number=number)
    assert (
        pair.do(pair.spy, "note", text="well")
        == pair.do(pair.neighbour, "note", text="well")
        == "noted"
    )


# --- the process of a session, and the judge that reads its state ---


@pytest.fixture
def session(pair):
    session = pair.sandbox.open(seed=7, timeout_seconds=60)
    yield session
    session.close()


def test_a_program_inherits_no_way_to_the_tables_or_the_agent(pair, session):
    assert as_program(session, "descriptors") == sorted(["/dev/null", "pipe", "pipe"])


def test_a_program_that_plants_modules_changes_no_verdict(pair, session):
    pair.do(session, "note", text="first")
    before = diff_of(session)
    assert (
        as_program(session, "plant", names=["json.py", "sqlite3.py", "traceback.py"]) == "planted"
    )
    assert (
        diff_of(session)
        == before
        == {"notes": {"added": [{"id": 1, "text": "first"}], "removed": []}}
    )


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_program_that_kills_or_stops_its_session_does_not_change_the_state(pair, session, number):
    pair.do(session, "note", text="first")
    attack = lambda: as_program(session, "kill_parent", 3, number=number)
    if pair.keeper_is_process_1:  # no signal from inside reaches process 1
        attack()
    else:
        assert failure_of(attack).kind == "session_ended"
    assert len(diff_of(session)["notes"]["added"]) == 1


def test_a_session_that_forges_an_answer_is_ended_and_none_is_believed(pair, session):
    for answer in (
        '{"id":1,"result":{}}',
        "garbage",
        '{"id":999999,"result":{"text":"forged","ok":true,"seconds":0}}',
        "[]",
        "7",
    ):
        failure = failure_of(
            lambda answer=answer, session=session: call(session, "forge", 10, answer=answer)
        )
        assert (failure.kind, "broke the protocol" in failure.message) == ("session_ended", True)
        session.close()
        session = pair.sandbox.open(seed=7, timeout_seconds=60)
    assert pair.do(pair.neighbour, "note", text="well") == "noted"
