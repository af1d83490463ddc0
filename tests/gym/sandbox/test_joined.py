"""Several tool sources as one sandbox: Python tools beside an MCP server, without shared state."""

import pytest

from envgym.env import ToolWorld
from envgym.errors import SpecError, WorldFailure
from envgym.sandbox.backends import open_sandbox
from envgym.sandbox.joined import CombinedSandbox
from envgym.spec.environment import load_spec
from tests.fakes.kiosk_app import KIOSK, call, options
from tests.gym.sandbox.mcp_env import KEPT, write_env

PYTHON_TOOL = '''
def double(number: int) -> str:
    """Twice as much."""
    return str(2 * number)


def leave() -> str:
    """Break."""
    import os

    os._exit(3)
'''


@pytest.fixture
def world(tmp_path):
    (tmp_path / "own").mkdir()
    (tmp_path / "own/tools.py").write_text(PYTHON_TOOL)
    world = ToolWorld(load_spec(write_env(tmp_path, tools=["own/tools.py"], **KEPT)))
    yield world
    world.close()


def test_python_tools_and_a_servers_tools_are_one_environment(world):
    assert list(world.tools)[:3] == ["double", "leave", "add"]
    session = world.sandbox.open(seed=7, timeout_seconds=60)
    assert call(session, "double", number=4).text == "8"
    assert call(session, "add", name="a").text == "8"
    assert list(session.diff(timeout_seconds=30)) == ["counters"]
    same = world.sandbox.open(seed=7, timeout_seconds=60)
    other = world.sandbox.open(seed=8, timeout_seconds=60)
    assert session.state_hash == same.state_hash != other.state_hash
    for each in (session, same, other):
        each.close()
    assert "; MCP server" in world.sandbox.label


def test_when_one_part_fails_the_others_are_closed(world):
    session = world.sandbox.open(seed=7, timeout_seconds=60)
    with pytest.raises(WorldFailure, match="exit status 3"):
        call(session, "leave")
    idle = world.sandbox.parts[1]._idle
    assert len(idle) == 1  # the server is idle again, ready for the next episode
    with pytest.raises(WorldFailure, match="no such seed"):
        world.sandbox.open(seed=-3, timeout_seconds=60)


def test_two_sources_of_one_tool_are_refused():
    pair = CombinedSandbox([open_sandbox(KIOSK, options(("local", "fork"))) for _ in range(2)])
    with pytest.raises(SpecError, match="two sources define a tool named"):
        pair.describe()
    pair.close()


def test_two_sources_of_one_table_are_refused(tmp_path):
    (tmp_path / "schema.sql").write_text("CREATE TABLE counters (name TEXT PRIMARY KEY)")
    path = write_env(tmp_path, **KEPT)
    with pytest.raises(SpecError, match="two sources have a table named 'counters'"):
        ToolWorld(load_spec(path, ["state.schema=schema.sql"]))
