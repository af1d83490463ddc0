"""Secrets of MCP servers: variables of commands, headers of URLs, servers that repeat them."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from envgym.env import ToolWorld
from envgym.errors import PrerequisiteError, SpecError
from envgym.registration import make_world
from envgym.spec.environment import load_spec

TOKEN = "tok/en+\"1' with space-77"
SERVER = """\
import json, os, sys

for line in sys.stdin:
    message = json.loads(line)
    if "id" not in message or "method" not in message:
        continue
    if message["method"] == "initialize":
        result = {"protocolVersion": message["params"]["protocolVersion"],
                  "capabilities": {"tools": {}}, "serverInfo": {"name": "s", "version": "1"}}
    elif message["method"] == "tools/list":
        about = "Uses " + os.environ["TOKEN"]
        result = {"tools": [{"name": "show", "description": about,
                             "inputSchema": {"type": "object", "properties": {}}}]}
    else:
        said = {"length": len(os.environ["TOKEN"]), "token": os.environ["TOKEN"],
                "words": sys.argv[1:], "raw": os.environ["TOKEN"]}
        result = {"content": [{"type": "text", "text": json.dumps(said)}]}
    print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}), flush=True)
"""
TASKS = """\
from envgym import ToolCall, template

@template(level="L0")
def show(draw):
    return draw.task(prompt="Show it", oracle=[ToolCall("show", {})], facts={"answer": "x"})
"""


def write(folder, block):
    (folder / "server.py").write_text(SERVER)
    (folder / "tasks.py").write_text(TASKS)
    spec = {
        "id": "t/secret-v0",
        "tools": [{"mcp": block}],
        "sandbox": {"backend": "local"},
        "tasks": {"from": "tasks.py", "val": 1, "test": 1},
    }
    (folder / "env.yaml").write_text(json.dumps(spec, indent=1))
    return folder / "env.yaml"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("env:MCP_TOKEN", ["python", "server.py"]),
        ("${env:MCP_TOKEN}", ["python", "server.py", "--token", "env:MCP_TOKEN"]),
        (TOKEN, ["python", "server.py", "--token=${env:MCP_TOKEN}"]),
    ],
)
def test_the_server_gets_the_value_and_nobody_else(tmp_path, monkeypatch, value, words):
    monkeypatch.setenv("MCP_TOKEN", TOKEN)
    world = make_world(load_spec(write(tmp_path, {"command": words, "env": {"TOKEN": value}})))
    assert isinstance(world, ToolWorld)
    env = world.env(split="test", owns_world=True)
    prompt, start = env.reset(seed=1)
    observation, _, _, _, info = env.step("show()")
    env.close()
    assert json.loads(observation)["length"] == len(TOKEN)
    assert "[hidden]" in observation or "[env:MCP_TOKEN]" in observation
    for text in (observation, prompt, str(start), str(info), world.sandbox.label):
        assert "space-77" not in text
    assert "space-77" not in world.tools["show"].description


def test_a_variable_that_is_not_set_is_told_before_anything_runs(tmp_path, monkeypatch):
    monkeypatch.delenv("MCP_TOKEN", raising=False)
    path = write(
        tmp_path, {"command": ["python", "server.py"], "env": {"TOKEN": "x ${env:MCP_TOKEN}"}}
    )
    with pytest.raises(
        PrerequisiteError, match=r"env.yaml:\d+: tools.0.mcp.env.TOKEN: .*MCP_TOKEN"
    ):
        make_world(load_spec(path))


class Refusing(BaseHTTPRequestHandler):
    """Server that refuses every request and repeats its headers."""

    def do_POST(self):
        self.server.seen.append(dict(self.headers))
        body = str(self.headers).encode()
        self.send_response(403)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_DELETE = do_POST

    def log_message(self, *_):
        pass


@pytest.mark.parametrize(
    ("userinfo", "headers", "sent"),
    [
        ("", {"Authorization": "Bearer ${env:MCP_TOKEN}"}, ("authorization", "Bearer token-123")),
        ("", {"X-Api-Key": "env:MCP_TOKEN"}, ("x-api-key", "token-123")),
        ("ann:token-123@", {}, ("authorization", "Basic YW5uOnRva2VuLTEyMw==")),
    ],
)
def test_a_url_gets_its_headers_and_shows_none(tmp_path, monkeypatch, userinfo, headers, sent):
    monkeypatch.setenv("MCP_TOKEN", "token-123")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    server.seen = []
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    url = f"http://{userinfo}127.0.0.1:{server.server_port}/mcp"
    path = write(tmp_path, {"url": url, "headers": headers, "reset": "session"})
    with pytest.raises(PrerequisiteError, match="cannot be used") as caught:
        make_world(load_spec(path))
    server.shutdown()
    name, value = sent
    assert {name.lower(): value for name, value in server.seen[0].items()}[name] == value
    assert "token-123" not in str(caught.value)
    assert "YW5uOnRva2Vu" not in str(caught.value)


def test_headers_belong_to_a_url(tmp_path):
    block = {"command": ["python", "server.py"], "headers": {"A": "b"}}
    with pytest.raises(SpecError, match="headers: only a server with a `url` gets headers"):
        load_spec(write(tmp_path, block))
