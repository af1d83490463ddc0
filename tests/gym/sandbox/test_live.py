"""A live API as tools, against a real server on this machine: answers, errors and diffs."""

import contextlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from envgym.env import ToolWorld
from envgym.errors import PrerequisiteError, SpecError, UsageError, WorldFailure
from envgym.playing import play
from envgym.policies.oracle import OraclePolicy
from envgym.sandbox.openapi.live import LiveApi
from envgym.spec.environment import load_spec
from tests.fakes.openapi_apps import answers, many, path, query, takes

THING = {
    "type": "object",
    "required": ["id"],
    "properties": {"id": {"type": "string"}, "size": {"type": "integer"}},
}
DOCUMENT = {
    "openapi": "3.1.0",
    "paths": {
        "/things": {
            "get": {
                "operationId": "list_things",
                **query(tag=many({"type": "string"}), big={"type": "boolean"}),
                **answers(many(THING)),
            }
        },
        "/things/{id}": {
            **path("id"),
            "get": {"operationId": "get_thing", **answers(THING)},
            "patch": {
                "operationId": "size_thing",
                **takes({"properties": {"size": {"type": "integer"}}}),
                **answers(THING),
            },
            "delete": {"operationId": "drop_thing", **answers(None, "204")},
        },
        "/do/{what}": {**path("what"), "post": {"operationId": "do", **answers(None)}},
        "/admin/reset": {
            "post": {
                "operationId": "reset",
                **takes({"properties": {"seed": {"type": "integer"}, "kind": {}}}),
            }
        },
        "/admin/dump": {"get": {"operationId": "dump"}},
    },
}
STATE = {"reset": ("reset", {"kind": "test"}), "dump": "dump"}


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen = []
        self.states = {}
        self.elsewhere = ""
        self.outage = ""
        self.limited = 0
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def _serve(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.seen.append((self.command, self.path, dict(self.headers), body.decode()))
        things = self.server.states.setdefault(self.headers.get("X-Tenant", ""), {})
        parts = [unquote(part) for part in urlsplit(self.path).path.split("/")[1:]]
        given = json.loads(body) if body else {}
        if self.server.limited:
            self.server.limited -= 1
            return self._limit()
        if self.server.outage:
            return getattr(self, f"_{self.server.outage}")()
        if parts == ["admin", "reset"]:
            things.clear()
            things.update({f"T{n}": {"id": f"T{n}", "size": given["seed"] + n} for n in range(3)})
            return self._say(200, {})
        if parts == ["admin", "dump"]:
            return self._say(200, {"things": list(things.values())})
        if parts[0] == "do":
            return getattr(self, f"_{parts[1]}")()
        if parts[1:] and parts[1] not in things:
            return self._say(404, {"error": f"no thing {parts[1]}"})
        if self.command == "PATCH":
            things[parts[1]] |= given
        if self.command == "DELETE":
            del things[parts[1]]
            return self._say(204)
        self._say(200, things[parts[1]] if parts[1:] else list(things.values()))

    do_GET = do_POST = do_PATCH = do_DELETE = _serve

    def _say(self, status, plain=None, **headers):
        data = b"" if plain is None else json.dumps(plain).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _break(self):
        self._say(503, {"error": "down"})

    def _unknown(self):
        self._say(401, {"error": "who are you"})

    def _late(self):
        self._say(408, {"error": "slow"})

    def _limit(self):
        self._say(429, {"error": "too many"})

    def _drop(self):
        self.close_connection = True

    def _hang(self):
        time.sleep(3)

    def _trickle(self):
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        with contextlib.suppress(OSError):  # the caller has disconnected
            for _ in range(30):
                self.wfile.write(b"x")
                self.wfile.flush()
                time.sleep(0.1)

    def _flood(self):
        self._say(200, "é" * 100_000)

    def _here(self):
        self._say(303, Location="/things")

    def _away(self):
        self._say(302, Location=f"{self.server.elsewhere}/things")

    def _circle(self):
        self._say(307, Location="/do/circle")


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


def call(session, tool, timeout_seconds=5.0, **arguments):
    return session.call(tool, arguments, now="2026", timeout_seconds=timeout_seconds)


def failure(session, tool, timeout_seconds=5.0, **arguments) -> WorldFailure:
    with pytest.raises(WorldFailure) as caught:
        call(session, tool, timeout_seconds, **arguments)
    return caught.value


def test_arguments_go_where_the_document_says(server, session):
    call(session, "list_things", tag=["a", "b c"], big=True)
    call(session, "size_thing", id="T1", size=4)
    (_, listed, _, _), (method, sized, headers, body) = server.seen[-2:]
    assert parse_qs(urlsplit(listed).query) == {"tag": ["a", "b c"], "big": ["true"]}
    assert (method, sized, headers["Content-Type"], body) == (
        "PATCH",
        "/things/T1",
        "application/json",
        '{"size":4}',
    )


@pytest.mark.parametrize("id_", ["../admin/dump", "a/b?c#d", "T 1%2f"])
def test_an_argument_never_leaves_its_place_in_the_path(server, session, id_):
    assert (
        call(session, "get_thing", id=id_).text
        == f"404: {json.dumps({'error': f'no thing {id_}'})}"
    )
    assert server.seen[-1][1].count("/") == 2


@pytest.mark.parametrize("id_", ["..", ".", "", "\ud800"])
def test_what_cannot_stand_in_a_path_is_refused_before_any_call(server, session, id_):
    before = len(server.seen)
    assert not call(session, "get_thing", id=id_).ok
    assert len(server.seen) == before


def test_what_the_server_refuses_is_an_answer(session):
    result = call(session, "get_thing", id="T9")
    assert (result.ok, result.text) == (False, '404: {"error": "no thing T9"}')
    assert call(session, "drop_thing", id="T1").text == "Done."


FAULTS = [
    ("break", "status 503"),
    ("unknown", "rejects the credentials"),
    ("late", "status 408"),
    ("limit", "rate limit"),
    ("drop", "cannot be reached"),
    ("hang", "no answer within 0.4 s"),
    ("trickle", "no answer within 0.4 s"),
]


@pytest.mark.parametrize(("what", "words"), FAULTS)
@pytest.mark.parametrize("state", [STATE, {}])
def test_a_failure_for_one_argument_is_an_observation_while_the_server_answers_others(
    server, state, what, words
):
    api = LiveApi(DOCUMENT, server.url, **state)
    session = api.open(seed=10, timeout_seconds=5)
    result = call(session, "do", 0.4, what=what)
    assert (result.ok, words in result.text, words in result.fault) == (False, True, True)
    assert result.text.startswith("the tool failed: do: ")
    assert call(session, "list_things").ok
    session.close()
    api.close()


@pytest.mark.parametrize(("what", "words"), FAULTS[:5])
def test_a_server_that_answers_nothing_is_down(server, what, words):
    api = LiveApi(DOCUMENT, server.url)
    session = api.open(seed=10, timeout_seconds=5)
    server.outage = what
    found = failure(session, "get_thing", 0.4, id="T1")
    assert (found.kind, found.stage) == ("server_down", "call")
    assert words in found.message
    session.close()
    api.close()


def test_the_check_waits_for_the_end_of_a_rate_limit(server):
    api = LiveApi(DOCUMENT, server.url)
    session = api.open(seed=10, timeout_seconds=5)
    server.limited = 3
    assert "rate limit" in call(session, "list_things").fault
    assert call(session, "list_things").ok
    session.close()
    api.close()


def test_a_server_that_is_gone_is_down():
    api = LiveApi(DOCUMENT, "http://127.0.0.1:9")
    assert failure(api.open(seed=1, timeout_seconds=5), "get_thing", id="x").kind == "server_down"


def test_a_long_answer_is_cut_with_a_marker(session):
    text = call(session, "do", what="flood").text
    assert text.endswith("[output cut: the first 65,536 bytes are shown]")


def test_a_redirect_is_followed_here_and_refused_elsewhere(server, session):
    other = Server()
    server.elsewhere = other.url
    assert json.loads(call(session, "do", what="here").text)[0]["id"] == "T0"
    assert (
        call(session, "do", what="away").text
        == "the server redirects to 127.0.0.1, which this environment may not call"
    )
    assert other.seen == []
    assert not call(session, "do", what="circle").ok
    other.shutdown()
    other.server_close()


def test_reset_gets_the_seed_and_the_dump_shows_what_changed(server, session):
    assert json.loads(server.seen[0][3]) == {"kind": "test", "seed": 10}
    assert session.diff(timeout_seconds=5) == {}
    call(session, "size_thing", id="T1", size=4)
    call(session, "drop_thing", id="T2")
    before = [{"id": "T1", "size": 11}, {"id": "T2", "size": 12}]
    assert session.diff(timeout_seconds=5) == {
        "things": {"added": [{"id": "T1", "size": 4}], "removed": before}
    }


def test_equal_seeds_have_equal_hashes_and_reset_and_dump_are_no_tools(server):
    api = LiveApi(DOCUMENT, server.url, **STATE)
    assert [tool["name"] for tool in api.describe()] == [
        "list_things",
        "get_thing",
        "size_thing",
        "drop_thing",
        "do",
    ]

    def hash_of(seed):
        session = api.open(seed=seed, timeout_seconds=5)
        session.close()
        return session.state_hash

    assert hash_of(1) == hash_of(1) != hash_of(2)


def test_one_state_is_one_episodes_at_a_time(server):
    api = LiveApi(DOCUMENT, server.url, **STATE)
    first = api.open(seed=1, timeout_seconds=5)
    with pytest.raises(WorldFailure, match="another episode is using the state") as caught:
        api.open(seed=1, timeout_seconds=0.1)
    assert (caught.value.kind, caught.value.stage) == ("sandbox_full", "open")
    first.close()
    first.close()  # the second close has no effect
    api.open(seed=1, timeout_seconds=5).close()
    with pytest.raises(UsageError, match="this session is closed"):
        call(first, "get_thing", id="T1")


def test_a_reset_that_fails_gives_the_state_back(server):
    api = LiveApi(DOCUMENT, server.url, reset=("do", {"what": "break"}))
    for _ in range(2):
        with pytest.raises(WorldFailure, match="status 503"):
            api.open(seed=1, timeout_seconds=5)


def test_a_header_with_the_session_keeps_episodes_apart(server):
    api = LiveApi(DOCUMENT, server.url, headers={"X-Tenant": "{session}"}, **STATE)
    one, other = (api.open(seed=5, timeout_seconds=5) for _ in range(2))
    call(one, "drop_thing", id="T1")
    assert call(other, "get_thing", id="T1").ok
    assert other.diff(timeout_seconds=5) == {}
    assert len(server.states) == 2


def test_a_secret_comes_from_the_environment(server, monkeypatch):
    monkeypatch.setenv("THINGS_TOKEN", "Bearer s3cret")
    api = LiveApi(DOCUMENT, server.url, headers={"Authorization": "env:THINGS_TOKEN"})
    call(api.open(seed=1, timeout_seconds=5), "list_things")
    assert server.seen[-1][2]["Authorization"] == "Bearer s3cret"
    monkeypatch.delenv("THINGS_TOKEN")
    with pytest.raises(
        PrerequisiteError, match="'Authorization' uses the environment variable THINGS_TOKEN"
    ):
        LiveApi(DOCUMENT, server.url, headers={"Authorization": "env:THINGS_TOKEN"})


@pytest.mark.parametrize(
    "what", [{"dump": "dumb"}, {"reset": ("dumb", {})}, {"reference": "api.yaml:dumb"}]
)
def test_an_operation_that_is_not_there_is_told(what):
    with pytest.raises(SpecError, match="no operation 'dumb', did you mean 'dump'"):
        LiveApi(DOCUMENT, "http://127.0.0.1:9", **what)


# --- from a YAML ---

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
