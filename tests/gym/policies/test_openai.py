"""Client of an OpenAI-compatible server, tested with a real HTTP server in a thread."""

import json
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from envgym.dialects import parse
from envgym.errors import PrerequisiteError, UsageError, WorldFailure
from envgym.messages import Message, ToolCall
from envgym.policies.openai import OpenAIPolicy
from envgym.tools import to_openai
from tests.fakes.phones import CALL, OPENING, UPDATE


class QuietServer(ThreadingHTTPServer):
    def handle_error(self, request, client_address):
        """Ignore clients that disconnect, as a client with a deadline does."""


@contextmanager
def server(answer: Callable[[str, dict], tuple[int, dict | str]]):
    """Run an HTTP server in which `answer(path, body)` returns (status, JSON).

    Yields:
        The server's URL and the list of received (path, body).
    """
    received: list[tuple[str, dict, dict]] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            size = int(self.headers.get("content-length", 0))
            body = json.loads(self.rfile.read(size)) if size else {}
            received.append((self.path, body, dict(self.headers)))
            status, plain = answer(self.path, body)
            raw = (plain if isinstance(plain, str) else json.dumps(plain)).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        do_GET = do_POST

        def log_message(self, *arguments):
            pass

    http = QuietServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{http.server_port}/v1", received
    finally:
        http.shutdown()
        http.server_close()
        thread.join()


def text_answer(content, finish="stop", **message):
    return 200, {
        "choices": [
            {
                "message": {"role": "assistant", "content": content, **message},
                "finish_reason": finish,
            }
        ]
    }


def structured(identifier, name, arguments):
    return {
        "id": identifier,
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def quick(url, model="m", **options):
    return OpenAIPolicy(url, model, api_key="", **{"backoff_seconds": 0.01, **options})


def test_a_text_answer_comes_back_and_the_conversation_is_sent_whole():
    with server(lambda path, body: text_answer("Hello.")) as (url, received):
        policy = OpenAIPolicy(url, "m", api_key="secret", temperature=0.7, max_tokens=9)
        dialogue = policy.open(OPENING, (), seed=5)
        assert (dialogue.reply().text, dialogue.trace()) == ("Hello.", None)
        dialogue.observe([Message("tool", "42", name="f")])
        dialogue.reply()
    path, body, headers = received[0]
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == "Bearer secret"
    assert body == {
        "model": "m",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Set the phone of C17."},
        ],
        "temperature": 0.7,
        "max_tokens": 9,
        "seed": 5,
    }
    assert received[1][1]["messages"][2:] == [
        {"role": "assistant", "content": "Hello."},
        {"role": "tool", "content": "42"},
    ]


def test_structured_calls_reach_the_environment_as_text_and_their_answers_go_back_by_id():
    update = structured("a1", "update", '{"id": "C17", "phone": "555"}')
    calls = [update, structured("a2", "save", ""), structured("a3", "save", "{}")]
    with server(lambda path, body: text_answer("Let me see.", "tool_calls", tool_calls=calls)) as (
        url,
        received,
    ):
        dialogue = quick(url).open(OPENING, to_openai([UPDATE]), seed=0)
        parsed = parse(dialogue.reply().text)
        dialogue.observe(
            [
                Message("tool", "saved", name="update"),
                Message("tool", "error: at most 1 call", name=None),
            ]
        )
        dialogue.reply()
    assert parsed.calls == (CALL, ToolCall("save", {}), ToolCall("save", {}))
    assert parsed.content == "Let me see."
    assert received[0][1]["tools"] == to_openai([UPDATE])
    assert received[1][1]["messages"][2:] == [
        {
            "role": "assistant",
            "content": "Let me see.",
            "tool_calls": [update, structured("a2", "save", "{}"), calls[2]],
        },
        {"role": "tool", "tool_call_id": "a1", "name": "update", "content": "saved"},
        {"role": "tool", "tool_call_id": "a2", "name": "save", "content": "error: at most 1 call"},
        {"role": "tool", "tool_call_id": "a3", "name": "save", "content": "error: not called"},
    ]


def test_an_answer_cut_at_its_limit_says_so():
    with server(lambda path, body: text_answer("Hel", "length")) as (url, _):
        assert quick(url).open(OPENING, (), seed=0).reply().stop_reason == "length"


def test_a_passing_failure_is_retried_and_then_forgotten():
    states = iter([503, 429, 200])

    def answer(path, body):
        status = next(states)
        return text_answer("ok") if status == 200 else (status, {"error": "busy"})

    with server(answer) as (url, received):
        assert quick(url).open(OPENING, (), seed=0).reply().text == "ok"
    assert len(received) == 3


def test_a_lasting_failure_voids_the_episode_after_the_retries():
    with (
        server(lambda path, body: (500, {"error": "out of memory"})) as (url, received),
        pytest.raises(WorldFailure, match=r"HTTP 500.*out of memory") as caught,
    ):
        quick(url, retries=2).open(OPENING, (), seed=0).reply()
    assert len(received) == 3
    assert (caught.value.kind, caught.value.stage) == ("policy_failed", "policy")


def test_a_refused_request_is_not_repeated():
    with (
        server(lambda path, body: (400, {"error": "bad role"})) as (url, received),
        pytest.raises(WorldFailure, match="bad role"),
    ):
        quick(url).open(OPENING, (), seed=0).reply()
    assert len(received) == 1


def test_a_slow_server_is_a_failure_of_the_world():
    slow = threading.Event()

    def answer(path, body):
        slow.wait(5)
        return text_answer("late")

    with server(answer) as (url, _):
        start = time.monotonic()
        with pytest.raises(WorldFailure, match="ReadTimeout"):
            quick(url, timeout_seconds=0.2, retries=1).open(OPENING, (), seed=0).reply()
        assert time.monotonic() - start < 3
        slow.set()


@pytest.mark.parametrize("plain", ["no json", "[1]", {"choices": []}, {"error": "odd"}])
def test_an_answer_without_a_message_is_a_failure_of_the_world(plain):
    with (
        server(lambda path, body: (200, plain)) as (url, _),
        pytest.raises(WorldFailure, match="policy_failed"),
    ):
        quick(url).open(OPENING, (), seed=0).reply()


def test_a_refused_key_says_which_variable_to_set():
    with (
        server(lambda path, body: (401, {"error": "bad key"})) as (url, received),
        pytest.raises(UsageError, match="OPENAI_API_KEY"),
    ):
        quick(url).open(OPENING, (), seed=0).reply()
    assert len(received) == 1


def test_an_unknown_model_is_answered_with_those_there_are():
    def answer(path, body):
        models = {"data": [{"id": "qwen"}, {"id": "crm-adapter"}]}
        return (200, models) if path.endswith("/models") else (404, {"error": "no model"})

    with (
        server(answer) as (url, _),
        pytest.raises(UsageError, match="Models there: qwen, crm-adapter"),
    ):
        quick(url).open(OPENING, (), seed=0).reply()


def test_a_wrong_base_url_is_told_how_it_usually_ends():
    with (
        server(lambda path, body: (404, {})) as (url, _),
        pytest.raises(UsageError, match="usually ends with /v1"),
    ):
        quick(url).open(OPENING, (), seed=0).reply()


def test_the_only_model_is_taken_and_one_of_several_must_be_named():
    models = [{"id": "only"}]

    def answer(path, body):
        return (200, {"data": models}) if path.endswith("/models") else text_answer(body["model"])

    with server(answer) as (url, _):
        assert quick(url, model=None).open(OPENING, (), seed=0).reply().text == "only"
        models.append({"id": "other"})
        with pytest.raises(UsageError, match=r"only, other.*#MODEL"):
            quick(url, model=None).open(OPENING, (), seed=0).reply()


def test_no_server_at_all_is_a_missing_prerequisite():
    with server(lambda path, body: (200, {})) as (url, _):
        pass  # the port is free again
    with pytest.raises(PrerequisiteError, match="no server answers at http"):
        quick(url, retries=0).open(OPENING, (), seed=0).reply()


def test_a_full_context_ends_the_episode_and_is_no_failure():
    words = {"error": {"message": "This model's maximum context length is 512 tokens"}}
    with server(lambda path, body: (400, words)) as (url, _):
        assert quick(url).open(OPENING, (), seed=0).reply().stop_reason == "context"


def test_many_dialogues_share_one_policy():
    with server(lambda path, body: text_answer(str(body["seed"]))) as (url, _):
        policy = quick(url)
        answers = {}

        def talk(seed):
            answers[seed] = policy.open(OPENING, (), seed=seed).reply().text

        threads = [threading.Thread(target=talk, args=(seed,)) for seed in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert answers == {seed: str(seed) for seed in range(16)}


@pytest.mark.parametrize(
    ("argument", "url", "model"),
    [
        ("openai:http://localhost:8000/v1", "http://localhost:8000/v1", None),
        ("openai:http://localhost:8000/v1/#org/m", "http://localhost:8000/v1", "org/m"),
        ("openai:http://localhost:8000#m", "http://localhost:8000/v1", "m"),
        ("https://api.example.com/v1/chat/completions#m", "https://api.example.com/v1", "m"),
    ],
)
def test_the_argument_names_server_and_model(argument, url, model):
    policy = OpenAIPolicy.from_argument(argument)
    assert (policy.base_url, policy._model) == (url, model)


def test_an_argument_without_a_url_is_refused():
    with pytest.raises(UsageError, match="needs a URL, as in openai:http"):
        OpenAIPolicy.from_argument("openai:gpt")
