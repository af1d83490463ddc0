"""Calls that are not made, values that no tool can hold, and failures and refusals of tools."""

import json

import pytest

from envgym.argument_values import has_large_integer, is_same
from envgym.env import ToolWorld
from envgym.playing import play
from envgym.policies.scripted import ScriptedPolicy
from envgym.tools import Tool, validate
from tests.fakes.shop_env import TOOLS, shop

FLOOR = {"type": "object", "properties": {"floor": {"enum": [1, 2, 3]}}}
DATA_TOOL = '''
def keep(data: dict) -> str:
    """Keep any data."""
    return "kept"
'''


def play_texts(world, *texts):
    return play(world.env(), ScriptedPolicy(list(texts)), seed=0, task="test/reprice/0")


@pytest.fixture
def world(tmp_path):
    world = ToolWorld(
        shop(tmp_path, "episode.max_calls_per_turn=2", "episode.max_turns=8", tools=TOOLS)
    )
    yield world
    world.close()


@pytest.mark.parametrize(("calls", "rejected"), [(3, 1), (5, 3), (50, 48)])
def test_calls_beyond_the_limit_of_a_turn_count_as_rejected(world, calls, rejected):
    episode = play_texts(world, "\n".join(["price(item='I1')"] * calls), "Done.")
    assert (episode.tool_calls, episode.tool_errors) == (calls, rejected)
    assert episode.turn_invalid_calls == (rejected, 0)
    assert episode.reward_parts["calls"] == pytest.approx(2 / calls)


def test_calls_that_are_not_made_do_not_move_the_clock(world):
    episode = play_texts(world, "\n".join(["tell(text='a')"] * 9), "tell(text='b')", "Done.")
    shown = [message.content for message in episode.messages if message.role == "tool"]
    assert shown[-1].startswith("2026-01-05T09:02:00")


@pytest.mark.parametrize("after", ["audit()", "set_price(item='I1', price=7)", "no_such_tool()"])
def test_no_call_is_made_after_a_successful_closing_call(world, after):
    episode = play_texts(world, f"close()\n{after}")
    assert (episode.stop_reason, episode.tool_calls, episode.tool_errors) == ("closed", 2, 1)
    assert episode.state_diff["extra"] == episode.state_diff["forbidden"] == []


@pytest.mark.parametrize(
    ("value", "is_large"),
    [
        (2**63 - 1, False),
        (-(2**63), False),
        (2**63, True),
        (-(2**63) - 1, True),
        (16**5000, True),
        ([1, {"a": [2**64]}], True),
        ({"a": "9" * 400}, False),
        (True, False),
        (1e300, False),
    ],
    ids=range(9),
)
def test_an_integer_beyond_64_bits_is_found_at_any_depth(value, is_large):
    assert has_large_integer(value) is is_large


@pytest.mark.parametrize("dialect", ["pythonic", "hermes"])
@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 10**40, 16**3500])
def test_an_integer_beyond_64_bits_is_a_mistake_of_the_model(world, number, dialect):
    digits = hex(number) if dialect == "pythonic" else str(number)
    text = f"set_price(item='I1', price={digits})"
    if dialect == "hermes":
        arguments = f'{{"item": "I1", "price": {digits}}}'
        text = f'<tool_call>{{"name": "set_price", "arguments": {arguments}}}</tool_call>'
    episode = play_texts(world, text, "Done.")
    assert (episode.failure, episode.reward, episode.turn_invalid_calls[0]) == (None, 0.0, 1)


@pytest.mark.parametrize(
    ("value", "choice", "same"),
    [
        (2, 2, True),
        (2.0, 2, False),
        (2, 2.0, True),
        (True, 1, False),
        (1, True, False),
        ("2", 2, False),
        (None, 0, False),
        ([1.0], [1], False),
        ({"a": 1}, {"a": 1}, True),
        ({"a": True}, {"a": 1}, False),
    ],
)
def test_choices_are_compared_by_type_and_value(value, choice, same):
    assert is_same(value, choice) is same


@pytest.mark.parametrize("value", [2.0, "2", True, [2], 4])
def test_a_value_of_another_type_is_no_choice(value):
    problems = validate(Tool("pick", "", FLOOR), {"floor": value})
    assert problems == [f"floor must be one of 1, 2, 3, got {json.dumps(value)}"]


@pytest.mark.parametrize("depth", [100, 500, 900, 960, 980, 990, 1000, 3000])
@pytest.mark.parametrize("backend", ["none", "local"])
def test_deeply_nested_arguments_are_never_void(tmp_path, depth, backend):
    world = ToolWorld(shop(tmp_path, f"sandbox.backend={backend}", tools=TOOLS + DATA_TOOL))
    value = '{"a": ' + "[" * depth + "]" * depth + "}"
    texts = [
        f'<tool_call>{{"name": "keep", "arguments": {{"data": {value}}}}}</tool_call>',
        f"keep(data={value})",
    ]
    episode = play_texts(world, *texts, "Done.")
    world.close()
    assert episode.failure is None
