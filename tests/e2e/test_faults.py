"""Fault campaign: killed owners and containers, an engine that restarts, and destructive tools.

Scripted episodes run beside each fault. Their records must equal the undisturbed ones byte for
byte: no wrong reward, no lost episode, no hang. The campaign is short by default;
ENVGYM_CAMPAIGN=full runs it at full length (20 killed owners).
"""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from envgym.errors import WorldFailure
from envgym.sandbox import App
from envgym.sandbox.backends import open_sandbox
from envgym.sandbox.containers.owners import RUN_LABEL, reap_orphans
from tests.fakes import APPS, ROOT
from tests.fakes.kiosk_app import call, need_docker, options, wait_until

pytestmark = [pytest.mark.docker, pytest.mark.campaign]
FULL = os.environ.get("ENVGYM_CAMPAIGN") == "full"
KILLS, SESSIONS = (20, 24) if FULL else (4, 24)
NEIGHBOURS = 4
EPISODES = 6 if not FULL else 24
HOSTILE = App(APPS, ("hostile/tools.py",), "hostile/schema.sql")
LIMITS = {"memory_mb": 256, "max_processes": 96, "tmpfs_mb": 16}
SHARED_LEVELS = ("fork", "namespaces")


@pytest.fixture(scope="module")
def api():
    need_docker()
    from envgym.sandbox.containers.engine import connect

    return connect()


def story(sandbox, number: int) -> list:
    """Play one scripted episode for a number. Return its observations and its final diff."""
    session = sandbox.open(seed=number, timeout_seconds=60)
    try:
        said: list = [session.state_hash]
        for turn in range(5):
            said.append(call(session, "note", 60, text=f"{number}.{turn}").text)
        return [*said, session.diff(timeout_seconds=60)]
    finally:
        session.close()


def expected(number: int) -> list:
    """Return the undisturbed result of `story`, without the hash of the empty state."""
    added = [{"id": turn + 1, "text": f"{number}.{turn}"} for turn in range(5)]
    return [*["noted"] * 5, {"notes": {"added": added, "removed": []}}]


def stories_around(sandbox, fault) -> list[list]:
    """Return the neighbours' episodes, played from before `fault` starts until after it ends."""
    over = threading.Event()

    def play(player: int) -> list[list]:
        said = []
        while len(said) < EPISODES or not over.is_set():
            said.append([player * 1000 + len(said), *story(sandbox, player * 1000 + len(said))])
        return said

    with ThreadPoolExecutor(NEIGHBOURS) as players:
        playing = [players.submit(play, player) for player in range(NEIGHBOURS)]
        try:
            fault()
        finally:
            over.set()
        return [each for player in playing for each in player.result(timeout=120)]


# --- destructive tools in a shared container ---

CAMPAIGN = {
    "fork_bomb": ({}, 4.0, {"timeout"}),
    "fill_disk": ({"gigabytes": 10}, 20.0, {"ENOSPC"}),
    "unpack_bomb": ({"megabytes": 400}, 20.0, {"ENOSPC"}),
    "flood": ({}, 2.0, {"timeout"}),
    "say_without_end": ({}, 20.0, {"cut", "out_of_memory", "session_ended", "tool_crashed"}),
    "grab_memory": ({"megabytes": 1024}, 20.0, {"out_of_memory", "session_ended"}),
    "spin": ({}, 1.0, {"timeout"}),
    "leave_orphan": ({"mark": "campaign"}, 20.0, {"Done."}),
    "print_garbage": ({}, 20.0, {"printed"}),
    "forge": (
        {"answer": '{"id":1,"result":{"text":"forged","ok":true,"seconds":0}}'},
        20.0,
        {"session_ended"},
    ),
}
"""Tool -> its arguments, the seconds it is allowed, and what may become of it."""


def outcome(session, tool: str, arguments: dict, seconds: float) -> str:
    try:
        text = call(session, tool, seconds, **arguments).text
    except WorldFailure as failure:
        return failure.kind
    if text.startswith("the tool failed: not done"):
        return "timeout"
    if text.startswith("the tool failed: MemoryError"):
        return "out_of_memory"
    return "cut" if "[output cut" in text else text


@pytest.mark.parametrize("level", SHARED_LEVELS)
@pytest.mark.parametrize("tool", CAMPAIGN)
def test_a_tool_that_ruins_what_it_can_ends_as_it_should_and_harms_no_episode_beside_it(
    api, level, tool
):
    arguments, seconds, ends = CAMPAIGN[tool]
    sandbox = open_sandbox(HOSTILE, options(("docker", level), pool={"boxes": 1}, **LIMITS))
    try:
        story(sandbox, 0)

        def ruin() -> None:
            session = sandbox.open(seed=1, timeout_seconds=60)
            ended.append(outcome(session, tool, arguments, seconds))
            session.close()

        ended: list[str] = []
        said = stories_around(sandbox, ruin)
        assert [each[2:] for each in said] == [expected(each[0]) for each in said]
        assert len({each[1] for each in said}) == 1, "the empty state has one hash"
        assert set(ended) <= ends
        assert len(ended) == 1
    finally:
        sandbox.close()


# --- killed containers ---


def test_boxes_killed_in_the_middle_lose_their_own_episodes_and_make_none_wrong(api):
    sandbox = open_sandbox(HOSTILE, options(("docker", "fork"), pool={"boxes": 3, "sessions": 4}))
    lost: list[WorldFailure] = []

    def play(number: int) -> list | None:
        for _ in range(20):
            try:
                return [number, *story(sandbox, number)]
            except WorldFailure as failure:
                lost.append(failure)
        return None

    try:
        story(sandbox, 0)
        with ThreadPoolExecutor(12) as players:
            playing = [players.submit(play, number) for number in range(40 * NEIGHBOURS)]
            for _ in range(3):
                time.sleep(0.5)
                for box in sandbox.pool.boxes[:1]:
                    with contextlib.suppress(Exception):  # it may be retired already
                        api.kill(box.transport.container)
            said = [each.result(timeout=120) for each in playing]
        assert [each[2:] for each in said] == [expected(each[0]) for each in said]
        assert {failure.kind for failure in lost} <= {"sandbox_lost"}
    finally:
        sandbox.close()


# --- killed owners ---

OWNER = """
import sys, threading
from tests.fakes.kiosk_app import call, options
from tests.e2e.test_faults import HOSTILE
from envgym.sandbox.backends import open_sandbox
from envgym.sandbox.containers.owners import RUN_LABEL, labels
print(labels()[RUN_LABEL], flush=True)
count = int(sys.argv[1])
shares = {"fork": count * 2 // 3, "namespaces": count - count * 2 // 3 - 1, "container": 1}
sandboxes = {level: open_sandbox(HOSTILE, options(("docker", level))) for level in shares}
for level, share in shares.items():
    for number in range(share):
        session = sandboxes[level].open(seed=number, timeout_seconds=120)
        if number % 3:
            threading.Thread(target=call, args=(session, "spin", 600), daemon=True).start()
print("ready", flush=True)
threading.Event().wait()
"""


def start_owner() -> tuple[subprocess.Popen[str], str]:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(SESSIONS)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout is not None
    return owner, owner.stdout.readline().strip()


def test_owners_killed_at_any_moment_leave_no_container_and_none_created_after_gc(
    api,
):
    luck = random.Random(0)
    for turn in range(KILLS):
        owner, run = start_owner()
        assert run
        try:
            if turn % 2:
                time.sleep(luck.uniform(0, 3))  # while containers are created
            else:
                assert owner.stdout.readline() == "ready\n"
        finally:
            owner.send_signal(signal.SIGKILL)
            owner.wait()
            owner.stdout.close()
        mine = {"label": f"{RUN_LABEL}={run}"}
        wait_until(
            lambda mine=mine: (
                not [c for c in api.containers(all=True, filters=mine) if c["State"] != "created"]
            ),
            5,
        )
        reap_orphans(api)
        assert api.containers(all=True, filters=mine) == []


# --- an engine that restarts ---


class PrivateEngine:
    """Second Docker engine that the test may stop and start."""

    def __init__(self) -> None:
        if not shutil.which("dockerd") or not shutil.which("unshare") or os.getuid() != 0:
            pytest.skip("NOT TESTED: a private engine needs `dockerd`, `unshare` and root")
        self.folder = Path(tempfile.mkdtemp(prefix="engine-"))
        self.address = f"unix://{self.folder}/docker.sock"
        self._process: subprocess.Popen | None = None

    def start(self) -> None:
        # It runs in a network of its own: an engine without a bridge removes the bridge of the
        # machine's other engine.
        places = {"--data-root": "data", "--exec-root": "exec", "--pidfile": "pid"}
        command = [
            "unshare",
            "--net",
            "dockerd",
            "--host",
            self.address,
            "--bridge=none",
            "--iptables=false",
        ]
        command += [
            word for option, name in places.items() for word in (option, self.folder / name)
        ]
        with open(self.folder / "log", "ab") as log:
            self._process = subprocess.Popen([*map(str, command)], stdout=log, stderr=log)
        deadline = time.monotonic() + 30
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                pytest.skip(
                    "NOT TESTED: no private engine starts here: "
                    f"{(self.folder / 'log').read_text()[-300:]}"
                )
            time.sleep(0.2)

    def _answers(self) -> bool:
        import docker

        try:
            client = docker.APIClient(self.address)
            client.ping()
            client.close()
        except Exception:
            return False
        return True

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait(timeout=60)

    def remove(self) -> None:
        self.stop()
        for mount in reversed(Path("/proc/mounts").read_text().splitlines()):
            if (place := mount.split()[1]).startswith(str(self.folder)):
                subprocess.run(["umount", "-l", place], check=False)
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture
def engine(api, monkeypatch):
    private = PrivateEngine()
    try:
        private.start()
        import docker

        client = docker.APIClient(private.address, timeout=120)
        client.load_image(b"".join(api.get_image("python:3.12-slim")))
        client.close()
        monkeypatch.setenv("DOCKER_HOST", private.address)
        yield private
    finally:
        private.remove()


def test_an_engine_that_restarts_voids_what_it_ran_and_episodes_go_on_when_it_is_back(engine):
    sandbox = open_sandbox(HOSTILE, options(("docker", "fork")))
    lost: list[WorldFailure] = []

    def play(number: int) -> list:
        while True:
            try:
                return [number, *story(sandbox, number)]
            except WorldFailure as failure:
                lost.append(failure)
                time.sleep(0.1)

    try:
        session = sandbox.open(seed=0, timeout_seconds=60)
        with ThreadPoolExecutor(NEIGHBOURS) as players:
            before = [players.submit(play, number) for number in range(40)]
            time.sleep(0.5)
            engine.stop()
            after = [players.submit(play, number) for number in range(40, 60)]
            time.sleep(1)
            engine.start()
            said = [each.result(timeout=100) for each in before + after]
        assert [each[2:] for each in said] == [expected(each[0]) for each in said]
        assert {failure.kind for failure in lost} <= {"sandbox_lost", "timeout"}
        with pytest.raises(WorldFailure, match="sandbox_lost"):
            call(session, "note", text="x")
    finally:
        sandbox.close()
