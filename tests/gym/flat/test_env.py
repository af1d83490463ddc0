"""The environment follows Gymnasium's contract and distinguishes three kinds of failure."""

import shutil

import gymnasium as gym
import pytest

from envgym.env import ToolWorld
from envgym.errors import SpecError, UsageError
from tests.fakes.shop_env import TOOLS, shop


@pytest.fixture
def world(tmp_path):
    world = ToolWorld(shop(tmp_path))
    yield world
    world.close()


@pytest.fixture
def env(world):
    return world.env()


def solve(env):
    call = env.unwrapped.task.oracle[0]
    return f"{call.name}({', '.join(f'{k}={v!r}' for k, v in call.arguments.items())})"


def test_an_episode_from_reset_to_reward(env):
    observation, info = env.reset(options={"task": "test/reprice/0"})
    assert [m["role"] for m in info["messages"]] == ["system", "user"]
    assert info["messages"][1]["content"] == observation
    assert "set_price(item: str, price: int)" in info["messages"][0]["content"]
    assert "Monday, 2026-01-05" in info["messages"][0]["content"]
    assert env.step(solve(env))[:4] == ("ok", 0.0, False, False)
    _, reward, terminated, truncated, info = env.step("Done.")
    assert (reward, terminated, truncated) == (1.0, True, False)
    assert info["success"]
    assert info["reward_parts"] == {"solved": 1.0, "calls": 1.0}
    assert info["state_diff"]["matched"][0]["table"] == "items"


def test_doing_nothing_earns_nothing(env):
    env.reset(options={"task": "test/reprice/0"})
    assert env.step("Done.")[1:4] == (0.0, True, False)


def test_a_question_is_solved_by_the_fact_in_the_last_message(env):
    env.reset(options={"task": "test/ask/0"})
    answer = env.task.final
    assert env.step(f"It costs {answer}")[1] == 1.0
    env.reset(options={"task": "test/ask/0"})
    assert env.step("I do not know.")[1] == 0.0


@pytest.mark.parametrize(
    ("action", "told"),
    [
        ("set_price(item='I1', price='ten')", "price must be"),
        ("set_price(item='I1')", "missing"),
        ("set_prize(item='I1', price=1)", "did you mean 'set_price'"),
        ("set_price(item='I1', price=-1)", "a price cannot be negative"),
        ("price(item='I99')", "no item I99"),
        ("set_price(item='I1', price=", "error: "),
        ("[price(item='I0')", "error: "),
    ],
)
def test_the_models_mistake_is_an_observation_and_changes_nothing(env, action, told):
    env.reset(options={"task": "test/reprice/0"})
    observation, reward, terminated, truncated, info = env.step(action)
    assert told in observation
    assert observation.startswith("error: ")
    assert (reward, terminated, truncated) == (0.0, False, False)
    env.step(solve(env))
    assert env.step("Done.")[1] == 1.0


def test_a_tool_that_the_task_does_not_offer_is_unknown(env):
    env.reset(options={"task": "test/ask/0"})
    assert env.step("set_price(item='I1', price=3)")[0].startswith(
        "error: unknown tool 'set_price'"
    )


def test_a_failure_of_a_tool_is_an_observation_and_neither_a_mistake_nor_void(env):
    env.reset(options={"task": "test/reprice/0"})
    observation, reward, terminated, truncated, info = env.step("crash()")
    assert observation == "error: the tool failed: ZeroDivisionError: division by zero"
    assert (reward, terminated, truncated, info["invalid_calls"]) == (0.0, False, False, 0)
    env.step(solve(env))
    _, reward, *_, info = env.step("Done.")
    assert (reward, info["tool_errors"], info["tool_failures"]) == (1.0, 0, 1)
    assert info["reward_parts"]["calls"] == 1.0, "a failed tool is no invalid call"


@pytest.mark.skipif(
    shutil.which("bwrap") is None,
    reason="NOT TESTED, no bubblewrap: install the package `bubblewrap`",
)
@pytest.mark.parametrize("executes_code", ["true", "false"])
def test_a_model_that_ends_its_session_has_not_solved_the_task_and_cannot_call_it_off(
    tmp_path, executes_code
):
    quitting = (
        TOOLS + '\n\ndef leave() -> str:\n    """Run what the model wrote."""\n    os._exit(3)\n'
    )
    boxed = (
        "sandbox.backend=bubblewrap",
        "sandbox.isolation=container",
        f"sandbox.executes_code={executes_code}",
    )
    env = ToolWorld(shop(tmp_path, *boxed, tools=quitting)).env(owns_world=True)
    env.reset(options={"task": "test/reprice/0"})
    env.step(solve(env))
    _, reward, terminated, _, info = env.step("leave()")
    env.close()
    end = (reward, terminated, info["success"], info["stop_reason"])
    assert end == (0.0, True, False, "sandbox_ended")
    assert "failure" not in info


def test_one_write_too_many_is_not_solved_and_a_forbidden_one_takes_all(env):
    env.reset(options={"task": "test/reprice/0"})
    env.step(solve(env))
    env.step("audit()")
    _, reward, *_, info = env.step("Done.")
    assert reward == 0.0
    assert info["state_diff"]["forbidden"][0]["table"] == "audit"


def test_reading_never_matters(env):
    env.reset(options={"task": "test/reprice/0"})
    env.step("price(item='I0')")
    env.step(solve(env))
    assert env.step("Done.")[1] == 1.0


def test_a_closing_tool_ends_the_episode(env):
    env.reset(options={"task": "test/reprice/0"})
    env.step(solve(env))
    _, reward, terminated, _, info = env.step("close()")
    assert (reward, terminated, info["stop_reason"]) == (1.0, True, "closed")


def test_the_turn_limit_truncates_and_still_scores(env):
    env.reset(options={"task": "test/reprice/0"})
    for _ in range(3):
        assert env.step(solve(env))[2:4] == (False, False)
    _, reward, terminated, truncated, info = env.step(solve(env))
    assert (terminated, truncated, info["stop_reason"], reward) == (False, True, "max_turns", 1.0)


def test_a_horizon_before_the_turn_limit_truncates_and_success_is_unknown(
    env,
):
    env.reset(options={"task": "test/reprice/0", "max_turns": 2})
    assert env.step("tell(text='a')")[2:4] == (False, False)
    _, reward, terminated, truncated, info = env.step("tell(text='b')")
    assert (reward, terminated, truncated, info["stop_reason"], info["success"]) == (
        0.0,
        False,
        True,
        "horizon",
        None,
    )
    env.reset(options={"task": "test/reprice/0", "max_turns": 1})
    assert env.step(solve(env))[4]["success"] is True
    env.reset(options={"task": "test/reprice/0", "max_turns": 4})
    assert [env.step("tell(text='a')")[4].get("stop_reason") for _ in range(4)] == [
        None,
        None,
        None,
        "max_turns",
    ]
    env.reset(options={"task": "test/reprice/0"})  # the horizon applies to one episode only
    assert not any(env.step("tell(text='a')")[3] for _ in range(3))
    with pytest.raises(UsageError, match="max_turns is 0"):
        env.reset(options={"task": "test/reprice/0", "max_turns": 0})


def test_the_clock_is_the_episodes_own_and_moves_with_each_call(env):
    env.reset(options={"task": "test/reprice/0"})
    assert env.step("tell(text='a')")[0] == "2026-01-05T09:00:00 a"
    assert env.step("tell(text='b')")[0] == "2026-01-05T09:01:00 b"


def test_a_long_answer_is_cut_with_a_marker_that_the_model_sees(env):
    env.reset(options={"task": "test/reprice/0"})
    observation, *_ = env.step(f"tell(text='{'x' * 200}')")
    assert observation.endswith("[cut: 140 more characters]")


def test_stepping_after_the_end_asks_for_a_reset(env):
    with pytest.raises(gym.error.ResetNeeded):
        env.step("hello")


def test_the_same_task_starts_from_the_same_state_and_another_from_another(env):
    hashes = [
        env.reset(options={"task": task})[1]["state_hash"]
        for task in ("train/reprice/1", "train/reprice/1", "train/reprice/2")
    ]
    assert hashes[0] == hashes[1] != hashes[2]
    assert all(hashes)


def test_wrong_options_are_told(env, world):
    with pytest.raises(UsageError, match="unknown option 'taks', did you mean 'task'"):
        env.reset(options={"taks": "x"})
    with pytest.raises(SpecError, match="did you mean 'reprice'"):
        env.reset(options={"task": "test/repric/0"})
    with pytest.raises(SpecError, match="belongs to train, test only"):
        env.reset(options={"task": "val/ask/0"})
    with pytest.raises(UsageError, match="did you mean 'test'"):
        world.env(split="tets")


def test_an_unknown_closing_tool_is_told_at_the_start(tmp_path):
    with pytest.raises(SpecError, match="did you mean 'close'"):
        ToolWorld(shop(tmp_path, "episode.closing_tools=[closs]"))


def test_spare_turns_go_beyond_what_the_oracle_needs(tmp_path):
    world = ToolWorld(shop(tmp_path, "episode.spare_turns=0"))
    env = world.env()
    env.reset(
        options={"task": "test/reprice/0"}
    )  # its oracle makes one call and then answers Done.
    assert env.step("price(item='I0')")[3] is False
    assert env.step("price(item='I0')")[3] is True
    world.close()
