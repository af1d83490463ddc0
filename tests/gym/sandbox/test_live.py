"""A live API as tools, against a real server on this machine: answers, errors and diffs."""

import json
from urllib.parse import parse_qs, urlsplit

import pytest

from envgym.errors import PrerequisiteError, SpecError, UsageError, WorldFailure
from envgym.sandbox.openapi.live import LiveApi
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
