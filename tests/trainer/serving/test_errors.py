"""Every wrong request gets an error in OpenAI's form, and the server goes on."""

import json
import socket
import time

import httpx
import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fakes.taught_model import LESSONS, TOOLS, user

CHAT = {"model": "lamps", "messages": [{"role": "user", "content": "x"}], "max_tokens": 1}
CALL = {"id": "c", "type": "function", "function": {"name": "look_up", "arguments": "{}"}}


@pytest.fixture(scope="module")
def http(url):
    with httpx.Client(base_url=url, timeout=60) as client:
        yield client


def error_of(response) -> dict:
    """Return the error of a response after checking its form."""
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["message"]
    assert "Traceback" not in response.text
    return body["error"]


@pytest.mark.parametrize(
    ("change", "status", "param", "code"),
    [
        ({"model": "lamp"}, 404, "model", "model_not_found"),
        ({"model": None}, 400, "model", "missing_required_parameter"),
        ({"messages": []}, 400, "messages", "invalid_value"),
        ({"messages": "Hi"}, 400, "messages", "invalid_value"),
        ({"messages": [{"role": "robot", "content": ""}]}, 400, "messages[0].role", None),
        ({"messages": [{"role": "user"}]}, 400, "messages[0].content", None),
        ({"messages": [{"role": "user", "content": 1}]}, 400, "messages[0].content", None),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            400,
            "messages[0].content[0]",
            "unsupported_parameter",
        ),
        (
            {
                "messages": [
                    {"role": "assistant", "content": None, "tool_calls": [CALL]},
                    {"role": "tool", "tool_call_id": "other", "content": "1"},
                ]
            },
            400,
            "messages[1].tool_call_id",
            None,
        ),
        (
            {
                "messages": [
                    {
                        "role": "assistant",
                        "content": None,
                        "tool_calls": [
                            CALL | {"function": {"name": "look_up", "arguments": "{NaN"}}
                        ],
                    }
                ]
            },
            400,
            "messages[0].tool_calls[0].function.arguments",
            None,
        ),
        ({"temperature": "hot"}, 400, "temperature", None),
        ({"temperature": -1}, 400, "temperature", None),
        ({"temperature": 1e-30}, 400, "temperature", None),
        ({"temperature": True}, 400, "temperature", None),
        ({"max_tokens": 0}, 400, "max_tokens", None),
        ({"n": 0}, 400, "n", None),
        ({"n": 65}, 400, "n", None),
        ({"seed": 1.5}, 400, "seed", None),
        ({"stop": ["a", "b", "c", "d", "e"]}, 400, "stop", None),
        ({"stop": ""}, 400, "stop", None),
        ({"top_p": 0.9}, 400, "top_p", "unsupported_parameter"),
        ({"presence_penalty": 1}, 400, "presence_penalty", "unsupported_parameter"),
        ({"logit_bias": {"5": 1}}, 400, "logit_bias", "unsupported_parameter"),
        ({"response_format": {"type": "json_object"}}, 400, "response_format", None),
        ({"logprobs": True, "top_logprobs": 3}, 400, "top_logprobs", "unsupported_parameter"),
        ({"tools": [{"type": "retrieval"}]}, 400, "tools[0].type", "unsupported_parameter"),
        ({"tools": [TOOLS[0], TOOLS[0]]}, 400, "tools[1].function.name", None),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, 400, None, None),
        ({"tool_choice": "required"}, 400, "tool_choice", None),
        ({"tool_choice": "maybe"}, 400, "tool_choice", None),
        (
            {
                "tools": TOOLS,
                "tool_choice": {"type": "function", "function": {"name": "nothing"}},
            },
            400,
            "tool_choice.function.name",
            None,
        ),
        ({"functions": [{"name": "f"}]}, 400, "functions", "unsupported_parameter"),
        ({"stream_options": {"include_usage": True}}, 400, "stream_options", None),
        ({"max_token": 5}, 400, "max_token", "unknown_parameter"),
    ],
    ids=lambda value: json.dumps(value)[:40] if isinstance(value, dict) else None,
)
def test_a_wrong_field_is_named(change, status, param, code, http):
    response = http.post("/v1/chat/completions", json=CHAT | change)
    assert response.status_code == status
    error = error_of(response)
    assert error["type"] == "invalid_request_error"
    if param is not None:
        assert error["param"] == param
    if code is not None:
        assert error["code"] == code


def test_a_typo_is_answered_with_the_right_name(http):
    error = error_of(http.post("/v1/chat/completions", json=CHAT | {"max_token": 5}))
    assert "did you mean 'max_tokens'?" in error["message"]


def test_fields_without_effect_are_accepted(http):
    extra = {
        "top_p": 1,
        "presence_penalty": 0,
        "frequency_penalty": 0.0,
        "logit_bias": {},
        "response_format": {"type": "text"},
        "user": "ann",
        "metadata": {"a": "b"},
        "store": False,
        "parallel_tool_calls": True,
        "logprobs": None,
        "tool_choice": "auto",
    }
    assert http.post("/v1/chat/completions", json=CHAT | extra).status_code == 200


def post(http, data: bytes, **headers):
    headers = {"Content-Type": "application/json"} | headers
    return http.post("/v1/chat/completions", content=data, headers=headers)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"model": "lamps", "messages": NaN}',
        b'{"seed": 1' + b"0" * 5000 + b"}",
        b"[" * 100_000,
        b'{"a":' * 50_000,
    ],
    ids=lambda data: repr(data[:20]),
)
def test_a_body_that_is_no_json_object_is_refused(data, http):
    response = post(http, data)
    assert response.status_code == 400
    assert error_of(response)["code"] == "invalid_json"


def test_lone_surrogates_are_read_as_text(http):
    data = json.dumps(CHAT | {"messages": [{"role": "user", "content": "half \ud800"}]})
    assert "\\ud800" in data
    assert post(http, data.encode()).status_code == 200


def test_a_body_beyond_the_limit_is_refused(http):
    response = post(http, json.dumps(CHAT | {"user": "x" * 5_000_000}).encode())
    assert response.status_code == 413
    assert error_of(response)["code"] == "request_too_large"


def test_a_body_without_announced_size_has_the_same_limit(http):
    chunks = (b" " * 500_000 for _ in range(12))
    try:
        response = http.post(
            "/v1/chat/completions",
            content=chunks,
            headers={"Content-Type": "application/json"},
        )
    except (httpx.WriteError, httpx.RemoteProtocolError):
        return  # the server has closed the connection while the client was sending
    assert response.status_code == 413


def test_another_content_type_is_refused(http):
    response = post(http, json.dumps(CHAT).encode(), **{"Content-Type": "text/plain"})
    assert response.status_code == 415
    error_of(response)


def test_unknown_paths_and_methods_are_refused(http):
    assert http.get("/v1/embeddings").status_code == 404
    assert "POST /v1/chat/completions" in error_of(http.get("/v1/embeddings"))["message"]
    assert http.get("/v1/chat/completions").status_code == 405
    error_of(http.get("/v1/chat/completions"))
    error_of(http.get("/v1/models/other"))


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["role", "content", "type", "function", "name", "arguments", "text", "id"]
            )
            | st.text(max_size=4),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)
FIELDS = [
    "model",
    "messages",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "temperature",
    "top_p",
    "n",
    "seed",
    "stop",
    "stop_token_ids",
    "logprobs",
    "top_logprobs",
    "stream",
    "stream_options",
    "max_tokens",
    "response_format",
    "user",
    "logit_bias",
]


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=3))
def test_any_values_of_the_fields_are_answered_or_refused(http, change):
    response = http.post("/v1/chat/completions", json=CHAT | change | {"max_tokens": 1})
    assert response.status_code in (200, 400, 404), response.text
    if response.status_code != 200:
        error_of(response)


MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "assistant", "tool"])},
    optional={
        "content": JSON,
        "tool_calls": st.just([CALL]) | JSON,
        "tool_call_id": st.just("c") | JSON,
        "reasoning_content": JSON,
        "name": JSON,
    },
)


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(MESSAGE, min_size=1, max_size=4))
def test_any_messages_are_answered_or_refused(http, messages):
    response = http.post("/v1/chat/completions", json=CHAT | {"messages": messages})
    assert response.status_code in (200, 400), response.text
    if response.status_code != 200:
        error_of(response)


def test_a_client_that_leaves_ends_its_sampling(http, url):
    body = {"model": "lamps", "prompt": [5, 6, 7], "max_tokens": 1000, "ignore_eos": True}
    for stream in (False, True):
        before = metric(http, "envgym_disconnects_total")
        leave(url, json.dumps(body | {"stream": stream}).encode())
        wait_for(lambda before=before: metric(http, "envgym_disconnects_total") == before + 1)
        wait_for(lambda: metric(http, "envgym_requests_in_flight") == 0)
        decoded = metric(http, "envgym_engine_decoded_tokens_total")
        time.sleep(0.5)
        assert metric(http, "envgym_engine_decoded_tokens_total") == decoded


def leave(url: str, body: bytes) -> None:
    """Send a request, wait until it is in flight, and close the connection."""
    host, _, port = url.removeprefix("http://").partition(":")
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head.encode() + body)
        time.sleep(0.3)


def metric(http, name: str) -> float:
    lines = http.get("/metrics").text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.split()[0] == name)


def wait_for(condition, seconds: float = 20.0) -> None:
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < seconds
        time.sleep(0.05)


def test_the_client_raises_its_own_errors(client):
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="other", messages=user("x"))
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="lamps", messages=user("x"), top_p=0.5)
    assert caught.value.param == "top_p"


def test_the_server_still_answers_after_all_of_this(client):
    answer = client.chat.completions.create(model="lamps", messages=LESSONS["done"][0], tools=TOOLS)
    assert answer.choices[0].message.content == LESSONS["done"][1]
