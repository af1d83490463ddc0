"""Credentials go to the host that they were declared for, proxies are used on request only."""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

import pytest

from envgym.errors import PrerequisiteError, SpecError
from envgym.http_client import Address, client_options
from envgym.policies.openai import OpenAIPolicy
from envgym.registration import make_world
from envgym.rewards.scoring.llm_judge import JudgeServer
from envgym.sandbox.openapi.live import LiveApi
from envgym.secrets import redact
from envgym.spec.environment import load_spec

ANSWER = {"choices": [{"message": {"content": '{"score": 5, "reason": "r"}'}}], "data": []}
DOCUMENT = {
    "openapi": "3.1.0",
    "paths": {"/echo": {"get": {"operationId": "echo", "responses": {}}}},
}
KEY = "sk-users-own-key-1"


class Recorder(BaseHTTPRequestHandler):
    def do_GET(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.seen.append((self.path, self.headers.get("Authorization")))
        body = json.dumps(ANSWER | {"you sent": dict(self.headers)}).encode()
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, *_):
        pass


def serve():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Recorder)
    server.seen, server.status = [], 200
    server.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    return server


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server = serve()
    yield server
    server.shutdown()


def ask(judge):
    judge.ask("s", "u", json.loads)
    judge.close()


def test_the_key_of_the_shell_goes_to_the_server_of_the_command_line_only(server):
    OpenAIPolicy.from_argument(f"{server.url}/v1#m").request("GET", "/models")
    OpenAIPolicy(f"{server.url}/v1", "m").request("GET", "/models")
    ask(JudgeServer(f"{server.url}/v1", "m"))
    ask(JudgeServer(f"{server.url}/v1", "m", key="another-key-22"))
    sent = [authorization for _, authorization in server.seen]
    assert sent == [f"Bearer {KEY}", None, None, "Bearer another-key-22"]


YAML = """\
id: test/judged-v0
tools: []
tasks: {from: tasks.py, val: 1, test: 1}
reward:
  solved: {from: judge, options: {url: "URL/v1", model: m, rubric: r KEY}}
"""
TASKS = """\
from envgym import template

@template(level="L0")
def ask(draw):
    return draw.task(prompt="Hi")
"""


@pytest.mark.parametrize(
    ("key", "sent"),
    [
        ("", None),
        (', key: "env:OPENAI_API_KEY"', f"Bearer {KEY}"),
        (', key: "${env:OPENAI_API_KEY}"', f"Bearer {KEY}"),
        (', key: "literal-key-33"', "Bearer literal-key-33"),
    ],
)
def test_a_judge_gets_the_key_that_its_yaml_declares(server, tmp_path, key, sent):
    (tmp_path / "tasks.py").write_text(TASKS)
    (tmp_path / "env.yaml").write_text(YAML.replace("URL", server.url).replace(" KEY", key))
    world = make_world(load_spec(tmp_path / "env.yaml"))
    env = world.env(split="test", owns_world=True)
    env.reset(seed=1)
    env.step("Hello")
    env.close()
    assert {authorization for _, authorization in server.seen} == {sent}


@pytest.mark.parametrize("user", ["ann:pass-w%40rd-1", "ann%2B:p%2Fss-word", "token-of-ann-1"])
def test_user_and_password_of_a_url_are_sent_and_not_shown(server, user):
    url = server.url.replace("//", f"//{user}@")
    api = LiveApi(DOCUMENT, url)
    session = api.open(seed=1, timeout_seconds=5)
    answer = session.call("echo", {}, now="", timeout_seconds=5).text
    name, _, password = unquote(user).partition(":")
    basic = base64.b64encode(f"{name}:{password}".encode()).decode()
    assert server.seen == [("/echo", f"Basic {basic}")]
    assert basic not in answer
    assert "[hidden]" in answer
    for text in (api.label, api.base_url, repr(Address.of(url))):
        assert (password or name) not in text
        assert "@" not in text


def test_credentials_given_twice_are_refused():
    with pytest.raises(SpecError, match="has a user or a password, and the header") as caught:
        Address.of("http://ann:pass-word-1@host", {"authorization": "Bearer x"})
    assert "pass-word-1" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("sk-value\n-1234", "a line break"),
        ("sk-value\r\nX-Other: 1", "a line break"),
        ("sk-välue-1234", "a character that is not ASCII"),
        ("sk-value\x00-1234", "a character that is not ASCII"),
    ],
)
def test_a_value_that_no_header_can_hold_is_refused_at_the_start(monkeypatch, value, told):
    if "\0" not in value:
        monkeypatch.setenv("TOKEN", value)
    text = value if "\0" in value else "env:TOKEN"
    with pytest.raises(SpecError, match=f"header 'X-Token'.* has {told}") as caught:
        LiveApi(DOCUMENT, "http://127.0.0.1:9", headers={"X-Token": text})
    assert "value" not in str(caught.value).replace("the value of", "")


def test_a_line_break_at_the_end_is_removed(server, monkeypatch):
    monkeypatch.setenv("TOKEN", "sk-value-1234\n")
    api = LiveApi(DOCUMENT, server.url, headers={"Authorization": "env:TOKEN"})
    api.open(seed=1, timeout_seconds=5).call("echo", {}, now="", timeout_seconds=5)
    assert server.seen == [("/echo", "sk-value-1234")]


@pytest.mark.parametrize("status", [200, 404, 401, 500])
def test_a_server_that_repeats_the_token_does_not_bring_it_into_the_record(server, status):
    server.status = status
    api = LiveApi(DOCUMENT, server.url, headers={"X-Token": "sk-value-1234-abc"})
    session = api.open(seed=1, timeout_seconds=5)
    try:
        said = session.call("echo", {}, now="", timeout_seconds=5).text
    except Exception as failure:
        said = str(failure)
    assert "X-Token" in said
    assert "sk-value-1234-abc" not in said


def test_a_missing_variable_is_told_by_its_name():
    with pytest.raises(PrerequisiteError, match="'A' uses the environment variable NOT_SET_1"):
        Address.of("http://host", {"A": "Bearer ${env:NOT_SET_1}"})


@pytest.mark.parametrize("use", [False, True])
def test_proxies_of_the_shell_are_used_on_request_only(server, monkeypatch, use):
    proxy = serve()
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, proxy.url)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    if use:
        monkeypatch.setenv("ENVGYM_USE_PROXY", "1")
    LiveApi(DOCUMENT, server.url).open(seed=1, timeout_seconds=5).call(
        "echo", {}, now="", timeout_seconds=5
    )
    OpenAIPolicy(f"{server.url}/v1", "m").request("GET", "/models")
    proxy.shutdown()
    assert (len(server.seen), len(proxy.seen)) == ((0, 2) if use else (2, 0))
    assert client_options()["trust_env"] is use


def test_a_certificate_file_is_respected_without_proxies(monkeypatch, tmp_path):
    (tmp_path / "ca.pem").write_text("")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    with pytest.raises(Exception, match=r"(?i)ssl|certificate|PEM|no certificate"):
        client_options()


def test_a_key_is_hidden_from_its_first_use(server):
    OpenAIPolicy(f"{server.url}/v1", "m", api_key="my-key-1234").close()
    assert redact("got my-key-1234") == "got [hidden]"
