"""MCP servers over HTTP, in a container, and at the end of the process."""

import socket
import subprocess
import sys
import time

import pytest

from envgym.env import ToolWorld
from envgym.errors import PrerequisiteError
from envgym.spec.environment import load_spec
from tests.fakes import APPS, ROOT
from tests.fakes.kiosk_app import call, failure_of, need_docker
from tests.gym.sandbox.mcp_env import KEPT, make_world, write_env

# --- over HTTP ---


@pytest.fixture(scope="module")
def url():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, str(APPS / "mcp/server.py"), str(port)], stderr=subprocess.DEVNULL
    )
    for _ in range(300):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.1)
    yield f"http://127.0.0.1:{port}/mcp"
    server.kill()
    server.wait()


def test_a_server_at_a_url_is_the_same_environment(tmp_path, url):
    world = make_world(tmp_path, command=None, url=url, **KEPT)
    assert "not isolated" in world.sandbox.label
    for _ in range(2):
        session = world.sandbox.open(seed=9, timeout_seconds=30)
        assert call(session, "add", name="a").text == "10"
        assert call(session, "add", name="z").ok is False
        assert list(session.diff(timeout_seconds=30)) == ["counters"]
        session.close()
    session = world.sandbox.open(seed=9, timeout_seconds=30)
    assert failure_of(lambda: call(session, "hang", timeout_seconds=1)).kind == "timeout"
    session.close()
    world.close()


def test_a_url_where_nobody_listens_is_told_at_once(tmp_path):
    with pytest.raises(PrerequisiteError, match="Start it, and set `url` to its endpoint"):
        make_world(tmp_path, command=None, url="http://127.0.0.1:9/mcp", reset="session")


# --- in a container ---


@pytest.mark.docker
@pytest.mark.slow
def test_the_notes_play_in_a_container_whose_image_has_the_sdk():
    need_docker()
    from envgym.sandbox.containers.engine import connect

    notes = ROOT / "envs/notes"
    for line in connect().build(path=str(notes), tag="envgym-notes-test", decode=True, rm=True):
        assert "error" not in line, line
    settings = ["sandbox.backend=docker", "sandbox.image=envgym-notes-test"]
    spec = load_spec(notes.parent / "notes.yaml", [*settings, "sandbox.open_timeout_seconds=120"])
    world = ToolWorld(spec)
    task = world.tasks.task("test/delete_note/0")
    env = world.env()
    env.reset(options={"task": task.id})
    env.step(f"delete_note(note='{task.oracle[0].arguments['note']}')")
    *_, info = env.step("Done.")
    assert info["success"], info
    env.close()
    world.close()


# --- end of the process ---


def test_a_world_that_nobody_closed_does_not_hold_the_program(tmp_path):
    path = write_env(tmp_path, **KEPT)
    code = (
        f"from envgym import *; w = make_world(load_spec({str(path)!r}));"
        " w.sandbox.open(seed=1, timeout_seconds=60); print('done')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.strip() == "done", done.stderr
