"""Live APIs from a YAML."""

import json

import pytest

from envgym.env import ToolWorld
from envgym.errors import SpecError
from envgym.playing import play
from envgym.policies.oracle import OraclePolicy
from envgym.sandbox.openapi.live import LiveApi
from envgym.spec.environment import load_spec
from tests.gym.sandbox.live_server import DOCUMENT, STATE, Server


@pytest.fixture
def server():
    server = Server()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def session(server):
    api = LiveApi(DOCUMENT, server.url, **STATE)
    session = api.open(seed=10, timeout_seconds=5)
    yield session
    session.close()
    api.close()


YAML = """\
id: test/things-v0
tools: [{openapi: api.json, base_url: "URL", reset: {operation: reset}, dump: dump}]
state: {seed: world.py:fill}
tasks: {from: tasks.py, val: 2, test: 2}
"""
WORLD = """\
def fill(db, seed):
    db.executemany("INSERT INTO things VALUES (?, ?)", [(f"T{n}", seed + n) for n in range(3)])
"""
TASKS = """\
from envgym import Change, ToolCall, template

@template(level="L0")
def resize(draw):
    thing, size = draw.row("SELECT * FROM things"), draw.rng.randrange(100)
    return draw.task(prompt=f"{thing['id']} is {size} now; it was {thing['size']}.",
                     oracle=[ToolCall("size_thing", {"id": thing["id"], "size": size})],
                     changes=[Change.update("things", thing["id"], size=size)])
"""


def yaml_of(folder, url, text=YAML):
    for name, content in {
        "api.json": json.dumps(DOCUMENT),
        "world.py": WORLD,
        "tasks.py": TASKS,
        "x.py": "",
    }.items():
        (folder / name).write_text(content)
    (folder / "things.yaml").write_text(text.replace("URL", url))
    return folder / "things.yaml"


def test_an_episode_on_a_live_api_is_scored_by_what_changed_there(server, tmp_path):
    world = ToolWorld(load_spec(yaml_of(tmp_path, server.url)))
    assert world.keys == {"things": ("id",)}
    for task in world.tasks.ids("test"):
        episode = play(world.env(), OraclePolicy(), seed=0, task=task)
        assert episode.success, episode
    assert [row["kind"] for row in play_wrong(world).state_diff["extra"]] == ["delete"]
    world.close()


def test_a_live_api_stands_beside_python_tools(server, tmp_path):
    text = YAML.replace("tools: [", "tools: [own.py, ")
    (tmp_path / "own.py").write_text(
        'def double(number: int) -> int:\n    """Twice as much."""\n    return 2 * number\n'
    )
    world = ToolWorld(load_spec(yaml_of(tmp_path, server.url, text), ["sandbox.backend=local"]))
    assert list(world.tools) == [
        "double",
        "list_things",
        "get_thing",
        "size_thing",
        "drop_thing",
        "do",
    ]
    session = world.sandbox.open(seed=3, timeout_seconds=20)
    assert session.call("double", {"number": 4}, now="", timeout_seconds=20).text == "8"
    assert session.call("drop_thing", {"id": "T0"}, now="", timeout_seconds=20).ok
    assert list(session.diff(timeout_seconds=20)) == ["things"]
    session.close()
    world.close()


def play_wrong(world):
    class Wrong:
        def open(self, *_, **__):
            from envgym.policies.scripted import ScriptDialogue

            texts = [
                '<tool_call>{"name": "drop_thing", "arguments": {"id": "T0"}}</tool_call>',
                "Done.",
            ]
            return ScriptDialogue(lambda turn: texts[turn])

    return play(world.env(), Wrong(), seed=0, task="test/resize/0")


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (
            "tools: [{openapi: api.json, base_url: 'ftp://h'}]",
            "base_url: must be a URL that begins with http:// or https://",
        ),
        ("tools: [{openapi: api.json}]", "base_url: is required"),
        (
            "tools: [{openapi: api.json, base_ur: 'http://h', base_url: 'http://h'}]",
            "base_ur: unknown key, did you mean 'base_url'?",
        ),
        ("tools: [{openapi: nope.json, base_url: 'http://h'}]", "tools: no such file"),
    ],
)
def test_a_wrong_block_is_told_with_its_line(tmp_path, wrong, told):
    lines = [wrong if line.startswith("tools:") else line for line in YAML.splitlines()]
    with pytest.raises(SpecError) as caught:
        load_spec(yaml_of(tmp_path, "", "\n".join(lines)))
    assert told in str(caught.value)
    assert "things.yaml:" in str(caught.value)
