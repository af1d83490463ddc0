"""Traps of failing worlds and long outputs."""

import dataclasses
import functools

import pytest
from rich.console import Console

from envgym.env import ToolWorld
from envgym.playing import Request, play, play_many
from envgym.policies import TokenTrace
from envgym.policies.scripted import ScriptedPolicy
from envgym.sandbox import Verification
from envgym.tasks import Check, stable_seed
from envgym_trainer.algorithms.credit import build_samples
from envgym_trainer.config.algorithm import AdvantageConfig, AlgorithmConfig
from envgym_trainer.inference.policies.demonstration import DemoPolicy
from envgym_trainer.model.chat import Chat
from envgym_trainer.run.folder import RunFolder
from envgym_trainer.run.metrics import episode_metrics, failure_metrics
from envgym_trainer.training.launch import resolve, run_training
from tests.fakes.faulty_env import HOOKS, Faulty
from tests.fakes.shop_env import TASKS, TOOLS, WORLD, shop
from tests.fakes.small_models import byte_tokenizer
from tests.fakes.trap_worlds import byte_engine, say

SMALL = [
    "train.checks.preflight=off",
    "train.model=tiny",
    "train.model.device=cpu",
    "train.warm_start.episodes=0",
    "train.steps=1",
    "train.rollout.groups_per_step=3",
    "train.rollout.group_size=4",
    "train.evaluation.tasks=2",
    "train.evaluation.base_tasks=0",
    "train.rollout.max_turn_tokens=4",
]
learned = functools.partial(
    build_samples, algorithm=AlgorithmConfig(advantage=AdvantageConfig(std="none"))
)


# --- faults ---


def assert_only_the_second_is_void(episodes) -> None:
    """Assert that of four equally rewarded members only the second is void.

    The world failed twice for it.
    """
    assert [episode.is_void for episode in episodes] == [False, True, False, False]
    void = episodes[1]
    assert (void.reward, void.success, void.stop_reason, len(void.failures)) == (
        None,
        None,
        "void",
        2,
    )
    counts = failure_metrics([episodes])
    assert (counts["episode/void"], counts["episode/retried"], counts["group/void_members"]) == (
        1,
        1,
        0.25,
    )
    assert counts[f"failures/{void.failure.kind}"] == 2
    assert episode_metrics([episodes])["reward"] == 1.0  # no reward of 0 was recorded
    # a reward of 0 would make the group differ
    assert [sample.advantage for sample in learned([episodes])] == [
        0.0,
        0.0,
        0.0,
    ]


@pytest.mark.trap(28)
@pytest.mark.parametrize("hook", HOOKS)
def test_a_foreign_environment_may_raise_in_any_hook(hook):
    make = Faulty.breaking(hook, {1, 2})  # attempts 1 and 2 are those of the second request
    policy = ScriptedPolicy(["a", "b"])
    requests = [Request("", seed) for seed in range(4)]
    # If creating the environment fails, each request needs a call of its own; otherwise one
    # environment serves them all.
    shares = [[request] for request in requests] if hook == "make" else [requests]
    episodes = [
        episode for share in shares for episode in play_many(make, policy, share, workers=1)
    ]
    if hook == "close":  # the episodes are complete before their environments close
        assert [episode.reward for episode in episodes] == [1.0] * 4
        return
    tokens = TokenTrace((5, 6), (False, True), (0.0, -1.0))
    assert_only_the_second_is_void(
        [dataclasses.replace(episode, tokens=tokens) for episode in episodes]
    )


class FaultySession:
    """Session with one failing hook."""

    def __init__(self, session, hook: str, broken: bool):
        self._session = session
        self._broken = hook if broken else ""
        self.state_hash = session.state_hash

    def __getattr__(self, name: str):
        if name == self._broken:
            raise RuntimeError(f"{name} is down")
        return getattr(self._session, name)

    def verify(self, files, command, *, timeout_seconds, inputs=None):
        if self._broken == "verify":
            raise OSError("verify is down")
        return Verification(0, "")


@pytest.mark.trap(28)
@pytest.mark.parametrize("hook", ["open", "call", "finish", "verify", "close"])
def test_a_sandbox_may_raise_in_any_hook(hook, tmp_path, monkeypatch):
    world = ToolWorld(shop(tmp_path))
    opened = world.sandbox.open
    task = world.tasks.task
    attempts = iter(range(100))

    def open_session(**options):
        broken = next(attempts) in (1, 2)
        if broken and hook == "open":
            raise RuntimeError("open is down")
        return FaultySession(opened(**options), hook, broken)

    monkeypatch.setattr(world.sandbox, "open", open_session)
    monkeypatch.setattr(
        world.tasks,
        "task",
        lambda name: dataclasses.replace(task(name), check=Check({}, ("true",), 1.0)),
    )
    policy = DemoPolicy(Chat(byte_tokenizer()), "pythonic")
    episodes = play_many(
        world.env, policy, [Request("train/reprice/0", seed) for seed in range(4)], workers=1
    )
    world.close()
    assert_only_the_second_is_void(episodes)


REWARD = (
    "def bad(evidence):\n    if evidence.task.id.endswith('/1'):\n"
    "        raise KeyError('grader')\n    return 0.0\n"
)
BAD = {
    "tool": {
        "tools": TOOLS.replace(
            "    if price < 0:\n", "    if price == PRICE:\n        1 / 0\n    if price < 0:\n"
        )
    },
    "seed": {
        "world": WORLD.replace(
            "    rng =", "    if seed == SEED:\n        raise OSError('seed')\n    rng ="
        )
    },
    "template": {
        "tasks": TASKS.replace(
            "    item, price =", "    assert not draw.id.endswith('/1')\n    item, price ="
        )
    },
    "reward": {},
}


@pytest.mark.trap(28)
@pytest.mark.parametrize("where", BAD)
def test_a_companys_own_code_may_raise_anywhere(where, tmp_path):
    seed = stable_seed("test/shop-v0", "train", "reprice", 1, 0, "state")
    names = [f"train/reprice/{n}" for n in range(4)]
    price = 0
    if where == "tool":
        (tmp_path / "sound").mkdir()
        sound = ToolWorld(shop(tmp_path / "sound"))
        price = sound.tasks.task(names[1]).oracle[0].arguments["price"]
        sound.close()
    files = {
        name: text.replace("SEED", str(seed)).replace("PRICE", str(price))
        for name, text in BAD[where].items()
    }
    (tmp_path / "rewards.py").write_text(REWARD)
    world = ToolWorld(
        shop(
            tmp_path, *(["reward.bad={from: rewards.py:bad}"] if where == "reward" else []), **files
        )
    )
    policy = DemoPolicy(Chat(byte_tokenizer()), "pythonic")
    episodes = play_many(world.env, policy, [Request(name, 0) for name in names], workers=1)
    world.close()
    if where == "tool":  # the model sees an observation, so the episode goes on
        assert [episode.is_void for episode in episodes] == [False] * 4
        assert [episode.tool_failures for episode in episodes] == [0, 1, 0, 0]
    else:
        assert_only_the_second_is_void(episodes)


@pytest.mark.trap(28)
def test_a_run_in_an_environment_that_raises_now_and_then_goes_on_to_its_end(tmp_path):
    path = tmp_path / "faulty.yaml"
    path.write_text(
        "id: test/faulty-v0\ngym: tests.fakes.faulty_env:Faulty-v0\n"
        "tasks: {val: 2, test: 2}\nepisode: {max_void_fraction: 1.0}\n"
    )
    spec, config, _ = resolve(str(path), [*SMALL, "train.steps=2"])
    folder = RunFolder.create(tmp_path, "r")
    outcomes = run_training(spec, config, folder, console=Console(quiet=True))
    lines = [line for line in folder.metrics() if line["phase"] == "grpo"]
    assert sum(line.get("failures/env_raised", 0) for line in lines) >= 1
    assert [line["step"] for line in lines] == [1, 2]
    # every valid episode has the same reward: none of them is 0
    assert all(line["reward"] == 1.0 for line in lines)
    assert outcomes["trained"].total.n >= 1
    assert (folder.adapter / "adapter_model.safetensors").exists()


# --- long tool outputs ---


FLOOD = '''
def flood(db) -> str:
    """Talk."""
    db.execute("UPDATE items SET price = 7 WHERE id = 'I1'")
    return "z" * 5000
'''


@pytest.mark.trap(29)
def test_a_tool_output_beyond_the_limit_is_cut_with_a_marker_and_its_side_effect_stays(
    tmp_path, monkeypatch
):
    world = ToolWorld(shop(tmp_path, tools=TOOLS + FLOOD))
    _, engine = byte_engine(max_context=2000)
    with engine:
        say(monkeypatch, [*engine.chat.answer("flood()"), *engine.chat.answer("Done.")])
        episode = play(world.env(), engine.policy(), seed=0, task="train/reprice/0")
        seen = engine.chat.tokenizer.decode(episode.tokens.token_ids)
    world.close()
    told = "z" * 80 + " [cut: 4920 more characters]"
    assert [message.content for message in episode.messages if message.role == "tool"] == [told]
    assert told in seen
    assert "z" * 81 not in seen
    assert "I1" in str(episode.state_diff["extra"])
