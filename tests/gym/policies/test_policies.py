"""Policies without a model: their common contract, and the answers of each scripted policy."""

import importlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import envgym.policies
from envgym.bridges.gymnasium import ForeignWorld
from envgym.dialects import parse
from envgym.env import ToolWorld
from envgym.errors import SpecError, UsageError
from envgym.messages import ToolCall
from envgym.playing import play
from envgym.policies import Dialogue, Policy, SamplingOverrides
from envgym.policies.human import HumanPolicy
from envgym.policies.noop import NoopPolicy
from envgym.policies.openai import OpenAIPolicy
from envgym.policies.oracle import OraclePolicy
from envgym.policies.random import RandomPolicy, random_call
from envgym.policies.refuse import RefusePolicy
from envgym.policies.registry import open_policy, policy_names
from envgym.policies.scripted import ScriptedPolicy
from envgym.spec.environment import load_spec
from envgym.tasks import Task
from envgym.tools import Tool, to_openai, validate
from tests.fakes.phones import CALL, OPENING, UPDATE
from tests.fakes.shop_env import shop

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


# --- the registry ---


@pytest.fixture
def world(tmp_path):
    world = ToolWorld(shop(tmp_path))
    yield world
    world.close()


@pytest.fixture
def foreign(tmp_path):
    (tmp_path / "foreign.yaml").write_text("id: test/foreign-v0\ngym: package:Env-v0\n")
    return ForeignWorld(load_spec(tmp_path / "foreign.yaml"))


def test_the_folder_offers_these_policies():
    assert policy_names() == ["human", "noop", "openai", "oracle", "random", "refuse"]


@pytest.mark.parametrize("kind", ["world", "foreign"])
@pytest.mark.parametrize("name", policy_names())
def test_every_file_of_the_folder_meets_the_contract(name, kind, request):
    module = importlib.import_module(f"envgym.policies.{name}")
    policy = open_policy(getattr(module, "EXAMPLE", name), request.getfixturevalue(kind))
    assert isinstance(policy, Policy)
    dialogue = policy.open(OPENING, to_openai([CLOSE]), seed=0, task=TASK)
    assert isinstance(dialogue, Dialogue)
    dialogue.close()
    dialogue.close()


OWN_POLICY = """\
from envgym.policies.scripted import ScriptedPolicy

def open_policy(argument, world):
    return ScriptedPolicy([f"{argument} in {world.spec.id}"])

def nothing(argument, world):
    return None

def short(world):
    return None
"""


def first_words(text, world):
    return said(open_policy(text, world), 1)[0]


def test_a_new_file_in_the_folder_is_found_by_its_name(tmp_path, world, monkeypatch):
    (tmp_path / "parrot.py").write_text(OWN_POLICY)
    monkeypatch.setattr(envgym.policies, "__path__", [*envgym.policies.__path__, str(tmp_path)])
    assert "parrot" in policy_names()
    assert first_words("parrot:a:b", world) == "a:b in test/shop-v0"


def test_a_policy_of_ones_own_is_named_by_its_file_or_module(tmp_path, world, monkeypatch):
    (tmp_path / "own_policy_file.py").write_text(OWN_POLICY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    assert first_words("own_policy_file.py:open_policy", world) == " in test/shop-v0"
    file = tmp_path / "own_policy_file.py"
    assert first_words(f"{file}:open_policy:http://x", world) == "http://x in test/shop-v0"
    module = "envgym.policies.noop:open_policy"
    assert first_words(module, world) == "Done."


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("orcale", "no policy 'orcale', did you mean 'oracle'"),
        ("registry", "no policy 'registry'"),
        ("scripted", "no policy 'scripted'"),
        ("openai", "needs a URL"),
        ("adapter", "policy 'adapter' needs an argument"),
        ("own.py:nothing", "policy 'own.py:nothing' returned a NoneType"),
        ("own.py:short", r"policy 'own.py:short' must be a function of \(argument, world\)"),
        ("own.py:opn_policy", "no 'opn_policy' in own.py, did you mean 'open_policy'"),
        ("own.py", "must look like file.py:name or package.module:name"),
        ("gone.py:x", "gone.py: no such file"),
        ("gone.module:x", "module 'gone.module' cannot be imported"),
    ],
)
def test_a_name_that_is_no_policy_is_an_error_with_the_fix(
    text, problem, tmp_path, world, monkeypatch
):
    (tmp_path / "own.py").write_text(OWN_POLICY)
    monkeypatch.chdir(tmp_path)
    with pytest.raises((UsageError, SpecError), match=problem):
        open_policy(text, world)


def test_sampling_settings_reach_a_policy_that_samples_and_are_refused_by_others(world):
    sampling = SamplingOverrides(temperature=0.5, max_turn_tokens=7)
    policy = open_policy("openai:http://localhost:1/v1#x", world, sampling=sampling)
    assert (policy.temperature, policy.max_tokens) == (0.5, 7)
    with pytest.raises(UsageError, match="policy 'oracle' has no sampling settings"):
        open_policy("oracle", world, sampling=sampling)
    with pytest.raises(UsageError, match="the server limits the context"):
        open_policy(
            "openai:http://localhost:1/v1", world, sampling=SamplingOverrides(max_context_tokens=9)
        )


# --- the refusal ---


def test_without_a_refusal_in_the_yaml_the_refuser_refuses_in_words(world, foreign):
    words = ["I am sorry, I cannot do that."]
    assert said(open_policy("refuse", world), 1) == words
    assert said(open_policy("refuse", foreign), 1, task=None) == words


def test_the_refuser_makes_the_call_that_the_yaml_names(tmp_path):
    refusal = "episode.refusal={tool: set_price, arguments: {item: I0, price: -1}}"
    world = ToolWorld(shop(tmp_path, refusal))
    first, _ = said(open_policy("refuse", world), 2, task=None)
    world.close()
    assert parse(first, world.spec.prompt.dialects).calls == (
        ToolCall("set_price", {"item": "I0", "price": -1}),
    )


def test_the_crm_accepts_its_own_refusal():
    crm = load_spec("crm", ["sandbox.backend=none", "sandbox.isolation=state"])
    world = ToolWorld(crm)
    task = world.tasks.ids("test", levels=["L2"], count=1)[
        0
    ]  # easier tasks have no request to close
    episode = play(world.env(), open_policy("refuse", world), seed=0, task=task)
    world.close()
    assert (episode.tool_calls, episode.tool_errors, episode.success) == (1, 0, False)
    assert episode.turns == 1  # the call closes the request


@pytest.mark.parametrize(
    ("refusal", "problem"),
    [
        ("{tool: cloze}", "episode.refusal.tool: no tool 'cloze', did you mean 'close'"),
        ("{tool: set_price}", "episode.refusal.arguments: missing argument"),
        ("{arguments: {}}", "episode.refusal.tool: is required"),
    ],
)
def test_a_refusal_that_the_tools_cannot_take_is_an_error(tmp_path, refusal, problem):
    with pytest.raises(SpecError, match=problem):
        ToolWorld(shop(tmp_path, f"episode.refusal={refusal}"))


# --- random values ---

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
