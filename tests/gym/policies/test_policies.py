"""Policies without tokens and without anyone else: the contract of all of them, and what each scripted one says."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envgym.dialects import parse
from envgym.errors import UsageError
from envgym.messages import ToolCall
from envgym.policies import Dialogue, Policy
from envgym.policies.human import HumanPolicy
from envgym.policies.openai import OpenAIPolicy
from envgym.policies.scripted import (
    NoopPolicy,
    OraclePolicy,
    RandomPolicy,
    RefusePolicy,
    ScriptedPolicy,
    random_call,
)
from envgym.tasks import Task
from envgym.tools import Tool, to_openai, validate
from tests.fakes.phones import CALL, OPENING, UPDATE

TASK = Task(
    "test/t/0",
    "Set it.",
    1,
    "test",
    "t",
    oracle=(CALL, ToolCall("save", {})),
    final="All set.",
    tools=("update", "save"),
)
CLOSE = Tool(
    "close",
    "",
    {
        "type": "object",
        "properties": {"outcome": {"enum": ["done", "refused"]}},
        "required": ["outcome"],
    },
)


def said(policy, turns, task=TASK, tools=(), seed=0):
    dialogue = policy.open(OPENING, tools, seed=seed, task=task)
    texts = [dialogue.reply().text for _ in range(turns)]
    assert dialogue.trace() is None
    dialogue.close()
    dialogue.close()
    return texts


ALL = [
    ScriptedPolicy(["a"]),
    OraclePolicy(),
    NoopPolicy(),
    RefusePolicy(),
    RandomPolicy(),
    HumanPolicy(),
    OpenAIPolicy("http://x"),
]


@pytest.mark.parametrize("policy", ALL, ids=lambda policy: type(policy).__name__)
def test_every_policy_meets_the_contract(policy):
    assert isinstance(policy, Policy)
    assert isinstance(policy.open([], (), seed=0, task=TASK), Dialogue)


def test_a_list_is_said_in_order_and_then_done():
    assert said(ScriptedPolicy(["a", "b"]), 3) == ["a", "b", "Done."]


def test_a_function_sees_the_task_and_the_turn():
    assert said(ScriptedPolicy(lambda task, turn: f"{task.id} {turn}"), 2) == [
        "test/t/0 0",
        "test/t/0 1",
    ]


@pytest.mark.parametrize("dialect", ["hermes", "pythonic"])
def test_the_oracle_plays_one_call_a_turn_and_then_its_final_words(dialect):
    first, second, last = said(OraclePolicy(dialect), 3)
    assert [parse(text, [dialect]).calls for text in (first, second)] == [
        (CALL,),
        (ToolCall("save", {}),),
    ]
    assert last == "All set."


def test_the_oracle_needs_a_task():
    with pytest.raises(UsageError, match="the oracle needs tasks"):
        said(OraclePolicy(), 1, task=None)


def test_the_noop_claims_to_be_done():
    assert said(NoopPolicy(), 1) == ["Done."]


def test_the_refuser_calls_where_it_can_and_says_no_where_it_cannot():
    refusal = ToolCall("update", {"id": "refused"})
    first, second = said(RefusePolicy(refusal), 2)
    assert parse(first).calls == (refusal,)
    assert second == "I am sorry, I cannot do that."
    assert said(RefusePolicy(ToolCall("not_offered", {})), 1) == ["I am sorry, I cannot do that."]
    assert said(RefusePolicy(), 1) == ["I am sorry, I cannot do that."]


def test_random_calls_are_valid_offered_and_fixed_by_the_seed():
    policy = RandomPolicy([UPDATE, CLOSE])
    games = [said(policy, 5, seed=seed) for seed in range(60)]
    assert games == [said(policy, 5, seed=seed) for seed in range(60)]
    calls = [call for game in games for text in game for call in parse(text).calls]
    assert {call.name for call in calls} == {"update"}  # the task does not offer `close`
    assert all(validate(UPDATE, call.arguments) == [] for call in calls)
    assert len({str(call) for call in calls}) > 20
    assert all(game[-1] == "Done." for game in games)


def test_where_no_tool_is_offered_random_words_of_the_conversation_are_said():
    games = [said(RandomPolicy(), 3, task=None, seed=seed) for seed in range(60)]
    assert games == [said(RandomPolicy(), 3, task=None, seed=seed) for seed in range(60)]
    assert {text for game in games for text in game} == {"Set", "the", "phone", "of", "C17"}


def test_tools_that_are_offered_at_the_opening_go_before_those_of_the_constructor():
    games = [
        said(RandomPolicy([UPDATE]), 4, task=None, tools=to_openai([CLOSE]), seed=seed)
        for seed in range(20)
    ]
    assert {call.name for game in games for text in game for call in parse(text).calls} == {"close"}


leaf_schemas = st.sampled_from(
    [
        {"type": "string"},
        {"type": "string", "minLength": 12, "maxLength": 14},
        {"type": "integer"},
        {"type": "integer", "minimum": 200},
        {"type": "integer", "maximum": -5},
        {"type": "integer", "exclusiveMinimum": 0, "maximum": 1},
        {"type": "number", "minimum": 0.5, "maximum": 0.75},
        {"type": "boolean"},
        {"enum": ["a", 2]},
        {"const": None},
        {"type": ["string", "null"]},
    ]
)
schemas = st.recursive(
    leaf_schemas,
    lambda inner: (
        st.builds(lambda items: {"type": "array", "items": items, "minItems": 1}, inner)
        | st.builds(lambda a, b: {"anyOf": [a, b]}, inner, inner)
        | st.builds(lambda a: {"type": "object", "properties": {"a": a}, "required": ["a"]}, inner)
    ),
    max_leaves=4,
)


@settings(deadline=None)
@given(schema=schemas, rng=st.randoms(use_true_random=False))
def test_a_random_call_passes_the_validation_of_its_tool(schema, rng):
    tool = Tool(
        "f", "", {"type": "object", "properties": {"x": schema, "y": schema}, "required": ["x"]}
    )
    call = random_call(tool, rng, ["C17", ""])
    assert validate(tool, call.arguments) == []
