"""Calls that a chat server has parsed reach the environment as the same calls, in its dialect."""

import json

import pytest

from envgym import load_spec, make_world, play
from envgym.dialects import dialect_names, parse
from envgym.errors import WorldFailure
from envgym.messages import Message, ToolCall
from envgym.policies.openai import open_policy
from envgym.policies.structured_calls import action_text, structured_calls
from envgym.tools import to_openai
from tests.fakes.phones import OPENING, UPDATE
from tests.fakes.shop_env import write
from tests.gym.policies.test_openai import quick, server, structured, text_answer

SAVE = ToolCall("save", {"note": 'He said "hi".\nThen left.', "when": None, "n": [1, {"a": True}]})


def given(*calls):
    """Return structured calls as the policy keeps them."""
    return structured_calls({"tool_calls": list(calls)}, ["update", "save"])


@pytest.mark.parametrize("dialect", dialect_names())
def test_the_environment_reads_the_call_that_the_server_parsed(dialect):
    calls = given(structured("a", "save", json.dumps(SAVE.arguments)))
    for content in (None, "I will save it."):
        action = action_text(content, calls, [dialect], ["save"])
        assert parse(action, [dialect], known=["save"]).calls == (SAVE,)


@pytest.mark.parametrize("dialect", dialect_names())
def test_several_calls_stay_several(dialect):
    calls = given(structured("a", "save", "{}"), structured("b", "update", '{"id": "C17"}'))
    action = action_text("Both.", calls, [dialect], ["save", "update"])
    meant = (ToolCall("save", {}), ToolCall("update", {"id": "C17"}))
    assert parse(action, [dialect], known=["save", "update"]).calls == meant


def test_the_next_dialect_is_taken_if_the_first_cannot_express_the_call():
    calls = given(structured("a", "get-it", "{}"))
    action = action_text(None, calls, ["pythonic", "bare"])
    assert action == '{"name": "get-it", "arguments": {}}'


def test_words_beside_a_call_stay_if_the_dialect_has_room_for_them():
    calls = given(structured("a", "save", "{}"))
    assert action_text("I save.", calls, ["hermes"]).startswith("I save.\n<tool_call>")
    assert action_text("I save.", calls, ["pythonic"]) == "save()"


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        ({"id": "C17"}, {"id": "C17"}),
        ('{"id": "C17"}', {"id": "C17"}),
        ("", {}),
        (None, {}),
        ({}, {}),
        ({"name": "Zoë", "n": 10**30}, {"name": "Zoë", "n": 10**30}),
    ],
)
def test_the_form_of_the_arguments_is_the_servers_and_no_mistake_of_the_model(arguments, meant):
    calls = given(structured("a", "update", arguments))
    assert isinstance(calls[0]["function"]["arguments"], str)
    assert parse(action_text(None, calls)).calls == (ToolCall("update", meant),)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("functions.update", "update"),
        ("default_api.update", "update"),
        ("tools.update", "update"),
        ("update", "update"),
        ("functions.other", "functions.other"),
    ],
)
def test_a_prefix_of_the_server_is_removed_if_a_tool_has_the_rest_as_name(name, meant):
    calls = given(structured("a", name, "{}"))
    assert parse(action_text(None, calls)).calls == (ToolCall(meant, {}),)


@pytest.mark.parametrize(
    "arguments", ['{"id": "C17"', "[1]", '"text"', "7", '{"id": NaN}', '{"a": 1, "a": 2}', "{} {}"]
)
@pytest.mark.parametrize("dialect", ["hermes", "pythonic", "qwen_xml", "llama_json"])
def test_malformed_arguments_stay_malformed(arguments, dialect):
    action = action_text(None, given(structured("a", "update", arguments)), [dialect])
    assert parse(action, [dialect], known=["update"]).mode == "invalid"


@pytest.mark.parametrize("function", [None, {}, {"name": None}, {"name": ""}, {"name": 7}])
def test_a_call_without_a_name_is_malformed(function):
    action = action_text(None, given({"id": "a", "function": function}), ["pythonic"])
    assert parse(action, ["pythonic"], known=["update"]).mode == "invalid"


# --- Results of calls that the model wrote as text ---


def roles_sent(received) -> list[str]:
    return [message["role"] for message in received[-1][1]["messages"]]


def play_two_turns(url, **options):
    dialogue = quick(url, retries=0, **options).open(OPENING, to_openai([UPDATE]), seed=0)
    dialogue.reply()
    dialogue.observe([Message("tool", "done", name="update")])
    return dialogue.reply()


def test_results_of_calls_in_text_have_the_role_of_a_tool():
    with server(lambda path, body: text_answer('update(id="C17")')) as (url, received):
        play_two_turns(url)
    assert received[-1][1]["messages"][-1] == {"role": "tool", "content": "done"}


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (400, "messages with role 'tool' must be a response to a preceding 'tool_calls'"),
        (422, "unexpected role"),
        (500, "Jinja Exception: Conversation roles must alternate user/assistant"),
    ],
)
def test_a_server_that_refuses_the_role_gets_results_as_the_users_words(status, words):
    def answer(path, body):
        if any(message["role"] == "tool" for message in body["messages"]):
            return status, {"error": {"message": words}}
        return text_answer("Hello.")

    with server(answer) as (url, received):
        policy = quick(url, retries=0)
        for _ in range(2):
            dialogue = policy.open(OPENING, (), seed=0)
            dialogue.reply()
            dialogue.observe([Message("tool", "42")])
            assert dialogue.reply().text == "Hello."
    sent = received[-1][1]["messages"][-1]
    assert sent == {"role": "user", "content": "<tool_response>\n42\n</tool_response>"}
    refused = [body for _, body, _ in received if body["messages"][-1]["role"] == "tool"]
    assert len(refused) == 1, "the policy remembers what the server refused"


def test_an_error_that_has_another_cause_stays_an_error():
    def answer(path, body):
        last = body["messages"][-1]
        return (
            (400, {"error": "too hot"})
            if "<tool_r" in str(last) or last["role"] == "tool"
            else (text_answer("Hello."))
        )

    with server(answer) as (url, received), pytest.raises(WorldFailure, match="too hot"):
        play_two_turns(url)
    assert roles_sent(received)[-1] == "user"


def test_the_role_can_be_chosen():
    with server(lambda path, body: text_answer("Hello.")) as (url, received):
        play_two_turns(url, tool_role="user")
    assert roles_sent(received)[-1] == "user"


# --- A whole episode ---


@pytest.mark.parametrize("dialect", ["pythonic", "bare", "fenced", "qwen_xml", "mistral"])
def test_an_episode_is_solved_with_structured_calls_in_each_dialect(tmp_path, dialect):
    spec = load_spec(write(tmp_path), ["prompt.rendering=native", f"prompt.dialects=[{dialect}]"])
    world = make_world(spec)
    task = world.env()
    task.reset(seed=1)
    oracle = list(task.task.oracle) if task.task else []
    calls = [
        structured(f"c{index}", call.name, call.arguments) for index, call in enumerate(oracle)
    ]
    answers = [text_answer("I will.", "tool_calls", tool_calls=[call]) for call in calls]
    answers.append(text_answer(task.task.final if task.task and task.task.final else "Done."))
    try:
        with server(lambda path, body: answers[len(received) - 1]) as (url, received):
            policy = open_policy(f"{url}#m", world)
            assert task.task
            episode = play(world.env(), policy, seed=1, task=task.task.id)
    finally:
        world.close()
    assert episode.success, episode.messages
    assert set(episode.dialects) == {dialect, "none"}
