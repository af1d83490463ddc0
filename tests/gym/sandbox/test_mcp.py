"""MCP servers as tools: real servers, in real sandboxes and over real HTTP."""

import json

import pytest

from envgym.errors import PrerequisiteError, SpecError, UsageError
from envgym.sandbox.mcp.dump import read_tables, tables_diff, tables_hash
from envgym.tools import validate
from tests.fakes import APPS
from tests.fakes.kiosk_app import NOW, call, failure_of
from tests.gym.sandbox.mcp_env import KEPT, make_world

RESTARTED = {"dump": "dump", "keys": {"counters": ["name"]}}


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    world = make_world(tmp_path_factory.mktemp("kept"), **KEPT, env={"COLOUR": "blue"})
    yield world
    world.close()


@pytest.fixture
def sandbox(kept):
    return kept.sandbox


# --- calls ---


def test_the_model_sees_the_servers_tools_but_for_those_of_the_environment(kept):
    assert {"add", "talk", "die"} <= set(kept.tools)
    assert not {"reset", "dump"} & set(kept.tools)
    assert kept.tools["add"].description == "Add to a counter."
    assert validate(kept.tools["add"], {"name": "a", "by": "2"}) == [
        'by must be an integer, got "2"'
    ]


def test_a_call_gives_the_servers_text_and_its_refusal_is_an_answer(session):
    assert call(session, "add", name="a", by=3).text == "10"
    refused = call(session, "add", name="z")
    assert (refused.ok, "no counter z" in refused.text) == (False, True)


def test_content_that_is_no_text_is_named(session):
    assert call(session, "picture").text == "a dot\n[image: image/png]"


def test_a_long_answer_is_cut_with_a_marker(session, kept):
    text = call(session, "talk", size=200_000).text
    assert text.startswith("xxx")
    assert text.endswith("[output cut: the first 65,536 of 200,000 characters are shown]")


@pytest.fixture(scope="module")
def rude(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rude")
    world = make_world(folder, command=["python", str(APPS / "mcp/rude.py")])
    yield world
    world.close()


def test_what_a_server_prints_between_its_messages_does_no_harm(rude):
    session = rude.sandbox.open(seed=1, timeout_seconds=60)
    assert call(session, "garble").text == "still here"
    assert call(session, "garble").text == "still here"
    session.close()


def test_a_server_that_asks_the_client_something_is_told_no_and_goes_on(rude):
    session = rude.sandbox.open(seed=1, timeout_seconds=60)
    assert call(session, "ask").text == "mine: List roots not supported"
    assert call(session, "garble").text == "still here"
    session.close()


def test_arguments_that_the_protocol_refuses_are_the_models_mistake(rude):
    session = rude.sandbox.open(seed=1, timeout_seconds=60)
    refused = call(session, "misread")
    assert (refused.ok, refused.text) == (False, "'a name is missing'")
    session.close()


def test_a_server_that_does_not_stop_talking_is_ended(rude):
    session = rude.sandbox.open(seed=1, timeout_seconds=60)
    failure = failure_of(lambda: call(session, "flood", timeout_seconds=60))
    assert failure.kind == "tool_crashed"
    assert "sent more than 16 MiB" in failure.message
    assert not failure_of(lambda: call(session, "garble")).message.startswith("timeout")
    session.close()


# --- how servers fail ---


@pytest.mark.parametrize(
    ("tool", "seconds", "kind", "words"),
    [("die", 30, "server_lost", "exit status 3"), ("hang", 2, "timeout", "waiting for the moon")],
)
def test_a_server_that_dies_or_hangs_voids_its_own_episode_only(kept, tool, seconds, kind, words):
    neighbour, session = (kept.sandbox.open(seed=seed, timeout_seconds=60) for seed in (3, 4))
    failure = failure_of(lambda: call(session, tool, timeout_seconds=seconds))
    assert (failure.kind, failure.stage) == (kind, "call")
    assert words in failure.message
    if tool == "die":
        assert "out of paper" in failure.message
    session.close()
    assert call(neighbour, "add", name="a").text == "4"
    neighbour.close()
    again = kept.sandbox.open(seed=4, timeout_seconds=60)
    assert call(again, "add", name="a").text == "5"
    again.close()


@pytest.mark.parametrize(
    "command", [["python", "-c", "raise SystemExit('no paper')"], ["no-such-program"]]
)
def test_a_server_that_does_not_start_is_told_with_its_last_words_and_the_remedy(tmp_path, command):
    with pytest.raises(PrerequisiteError, match=r"(?s)no paper|no-such-program") as caught:
        make_world(tmp_path, command=command)
    assert "must be installed in the box" in str(caught.value)


def test_a_closed_session_takes_no_call(kept):
    session = kept.sandbox.open(seed=1, timeout_seconds=60)
    session.close()
    session.close()
    with pytest.raises(UsageError, match="closed"):
        call(session, "add", name="a")


# --- resets ---


def test_a_kept_server_serves_one_episode_after_the_other_each_from_its_own_state(kept):
    pids = set()
    for seed in (11, 12, 11):
        session = kept.sandbox.open(seed=seed, timeout_seconds=60)
        pids.add(call(session, "given").text.split()[-1])
        assert session.diff(timeout_seconds=30) == {}
        assert call(session, "add", name="a").text == str(seed + 1)
        changed = session.diff(timeout_seconds=30)
        assert changed["counters"] == {
            "added": [{"name": "a", "value": seed + 1}],
            "removed": [{"name": "a", "value": seed}],
        }
        session.close()
    assert len(pids) == 1


def test_a_server_that_its_reset_does_not_clean_is_replaced_and_counted(tmp_path):
    world = make_world(tmp_path, **KEPT)
    clean = world.sandbox.open(seed=5, timeout_seconds=60)
    call(clean, "soil")
    clean.close()
    after = world.sandbox.open(seed=5, timeout_seconds=60)
    assert after.state_hash == clean.state_hash
    assert call(after, "add", name="a").text == "6"
    assert (world.sandbox.counts.dirty, world.sandbox.counts.started) == (1, 2)
    after.close()
    world.close()


def test_a_reset_that_is_refused_is_the_worlds_failure(kept):
    failure = failure_of(lambda: kept.sandbox.open(seed=-1, timeout_seconds=60))
    assert (failure.stage, "no such seed" in failure.message) == ("open", True)


def test_a_restarted_server_knows_seed_and_time_from_its_surroundings(tmp_path):
    world = make_world(tmp_path, **RESTARTED, env={"COLOUR": "red"})
    told = []
    for seed in (21, 22):
        session = world.sandbox.open(seed=seed, timeout_seconds=60)
        told.append(call(session, "given").text.split())
        session.close()
    world.close()
    assert [words[:3] for words in told] == [["21", NOW, "red"], ["22", NOW, "red"]]
    assert told[0][3] != told[1][3]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"reset": "container"}, "`reset: container` needs a new container"),
        ({"sandbox": {"backend": "none"}}, "sandbox.backend=local or docker"),
        ({"sandbox": {"isolation": "state"}}, "sandbox.isolation=fork"),
        ({"hidden": ["ad"]}, "no tool 'ad', did you mean 'add'"),
        ({"command": None}, r"env.yaml:1: tools\.0\.mcp: give either `command`"),
        (
            {"command": None, "url": "http://127.0.0.1:1/mcp"},
            "a server at a URL cannot be restarted",
        ),
        ({"dump": "dump"}, "name the primary key"),
        ({"comand": ["x"]}, r"tools\.0\.mcp\.comand: unknown key, did you mean 'command'"),
        ({"reset": "sometimes"}, r"tools\.0\.mcp\.reset: is 'sometimes'"),
    ],
)
def test_a_wrong_block_is_refused_with_the_remedy(tmp_path, settings, words):
    with pytest.raises(SpecError, match=words):
        make_world(tmp_path, **settings)


# --- tasks and whole episodes ---


def test_templates_draw_from_the_dump_and_an_episode_is_judged_by_it(kept):
    task = kept.tasks.task("test/add_to/0")
    env = kept.env()
    _, info = env.reset(options={"task": task.id})
    env.step(
        f"```json\n{json.dumps({'name': 'add', 'arguments': dict(task.oracle[0].arguments)})}\n```"
    )
    *_, info = env.step("Done.")
    assert (info["success"], info["state_diff"]["extra"]) == (True, [])
    assert kept.keys == {"counters": ("name",)}
    env.close()


def test_order_does_not_matter_to_a_state_and_volatile_columns_do_not_count():
    one = read_tables('{"t": [{"id": 1, "at": 5, "tags": ["x"]}, {"id": 2, "at": 6, "tags": []}]}')
    other = read_tables(
        '{"t": [{"id": 2, "at": 7, "tags": []}, {"id": 1, "at": 8, "tags": ["x"]}]}'
    )
    assert tables_hash(one, volatile=("*.at",)) == tables_hash(other, volatile=("*.at",))
    assert tables_hash(one) != tables_hash(other)
    assert tables_diff(one, {"t": [one["t"][1]]}) == {
        "t": {"added": [], "removed": [{"id": 1, "at": 5, "tags": '["x"]'}]}
    }
    with pytest.raises(ValueError, match="a dump must be"):
        read_tables('{"t": [1]}')


# --- over HTTP ---
