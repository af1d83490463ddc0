"""`abort` pays the failure reward, so that trainers that stop early see the same reward."""

import math

import gymnasium
import pytest

from envgym.bridges.gymnasium import ForeignWorld
from envgym.env import ToolWorld
from envgym.playing import find_env, play
from envgym.policies import Completion
from envgym.policies.scripted import ScriptedPolicy
from envgym.spec.environment import load_spec
from envgym.terms import total, turn_rewards
from envgym.world import Env, World
from tests.fakes.shop_env import shop

TASK = "test/reprice/0"
READ = "price(item='I0')"
WIDE = "reward.solved={from: state_match, range: [-3, 3]}"
PER_CALL = "reward.step={from: valid_calls, per: turn, weight: 0.25}"
END_KEYS = {
    "messages",
    "invalid_calls",
    "stop_reason",
    "success",
    "reward_parts",
    "reward_terms",
    "state_diff",
    "verification",
    "tool_calls",
    "tool_errors",
    "tool_failures",
    "tool_faults",
}


class FullContext(ScriptedPolicy):
    """Policy that runs out of context after its texts; `partial` is its unfinished last answer."""

    def __init__(self, texts, partial):
        super().__init__(list(texts))
        self.turns = len(texts)
        self.partial = partial

    def open(self, messages, tools, *, seed, task=None):
        dialogue = super().open(messages, tools, seed=seed, task=task)
        reply, turn = dialogue.reply, iter(range(self.turns))
        tokens = (1,) if self.partial else ()
        full = Completion(self.partial, tokens, tuple(-0.5 for _ in tokens), "context")
        dialogue.reply = lambda: full if next(turn, None) is None else reply()
        return dialogue


def foreign_loop(env, texts, partial):
    """Run an episode as a trainer that uses only Gymnasium's API and `abort`."""
    env.reset(options={"task": TASK})
    rewards = []
    for text in texts:
        _, reward, terminated, truncated, _ = env.step(text)
        rewards.append(reward)
        if terminated or truncated:
            return rewards
    return [*rewards, env.abort("context", partial or None)[1]]


@pytest.fixture
def worlds(tmp_path):
    opened = []

    def open_world(*settings):
        opened.append(ToolWorld(shop(tmp_path, *settings)))
        return opened[-1]

    yield open_world
    for world in opened:
        world.close()


@pytest.mark.parametrize("partial", ["", "pri"])
@pytest.mark.parametrize(
    ("settings", "texts", "expected"),
    [
        ((WIDE,), [READ], -3.0),
        ((WIDE,), [], -3.0),
        ((), [READ], 0.0),
        ((WIDE, PER_CALL), [READ, READ], -3.0),
        ((PER_CALL,), [READ, READ], 0.0),
    ],
)
def test_our_loop_and_a_foreign_loop_see_the_same_reward(
    worlds, settings, texts, expected, partial
):
    world = worlds(*settings)
    episode = play(world.env(), FullContext(texts, partial), seed=0, task=TASK)
    assert episode.reward == pytest.approx(expected)
    assert sum(foreign_loop(world.env(), texts, partial)) == pytest.approx(expected)
    assert total(episode.reward_terms) == pytest.approx(expected)
    assert (episode.stop_reason, episode.success) == ("context", False)
    assert (episode.terminated, episode.truncated) == (False, True)
    assert episode.turns == len(texts) + bool(partial)
    assert episode.is_clipped
    by_turn = turn_rewards(episode.reward_terms, episode.turns)
    assert by_turn == pytest.approx(episode.turn_rewards)
    assert episode.turns == 0 or math.fsum(episode.turn_rewards) == pytest.approx(expected)


def test_abort_returns_all_keys_of_an_end_and_closes_the_episode(worlds):
    env = worlds(WIDE).env(render_mode="ansi")
    env.reset(options={"task": TASK})
    env.step("price(item='I99')")
    observation, reward, terminated, truncated, info = env.abort("cancelled", "It co")
    assert (observation, reward, terminated, truncated) == ("", -3.0, False, True)
    assert set(info) == END_KEYS
    assert (info["stop_reason"], info["success"]) == ("aborted", False)
    assert (info["tool_calls"], info["tool_errors"]) == (1, 1)
    assert info["reward_parts"] == {"solved": None, "calls": None}
    assert env.render().endswith("[assistant] It co")
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step("Done.")
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.abort("cancelled")
    env.reset(options={"task": TASK})
    assert env.step("Done.")[2]


@pytest.mark.parametrize(
    ("reason", "stop"), [("context", "context"), ("length", "length"), ("cancelled", "aborted")]
)
def test_each_reason_has_a_stop_reason(worlds, reason, stop):
    env = worlds().env()
    env.reset(options={"task": TASK})
    assert env.abort(reason)[4]["stop_reason"] == stop


def test_abort_is_found_inside_gymnasiums_wrappers(worlds):
    env = worlds(WIDE).env()
    wrapped = gymnasium.wrappers.OrderEnforcing(gymnasium.wrappers.TimeLimit(env, 100))
    assert find_env(wrapped) is env
    assert play(wrapped, FullContext([READ], ""), seed=0, task=TASK).reward == -3.0


def test_a_foreign_environment_has_no_failure_reward(tmp_path):
    path = tmp_path / "echo.yaml"
    path.write_text(
        "id: test/echo-v0\ngym: tests.fakes.echo_env:Echo-v0\ntasks: {val: 3, test: 4}\n"
    )
    world = ForeignWorld(load_spec(path))
    episode = play(world.env(), FullContext(["wrong"], "ri"), seed=0, task="test/seed/1")
    assert (episode.reward, episode.reward_terms) == (0.0, {})
    assert (episode.stop_reason, episode.success, episode.turns) == ("context", False, 2)
    env = world.env()
    env.reset(options={"task": "test/seed/1"})
    assert set(env.abort("length")[4]) == END_KEYS
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.abort("length")


def test_our_environments_satisfy_the_protocols(worlds, tmp_path):
    path = tmp_path / "echo.yaml"
    path.write_text(
        "id: test/echo-v0\ngym: tests.fakes.echo_env:Echo-v0\ntasks: {val: 3, test: 4}\n"
    )
    names = {name for name in vars(World) if not name.startswith("_")} | {"spec"}
    for world in (worlds(), ForeignWorld(load_spec(path))):
        assert all(hasattr(world, name) for name in names), names
        assert isinstance(world.env(), Env)
        (template,) = {name.split("/")[1] for name in world.tasks.ids("val", count=2)}
        assert "val" in world.tasks.templates[template].splits
        task = world.tasks.task(f"train/{template}/3")
        assert (task.id, task.split, task.template) == (f"train/{template}/3", "train", template)
        assert world.tasks.sizes["train"] is None
