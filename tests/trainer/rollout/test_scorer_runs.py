"""Whole runs whose rewards are scored by group, rescaled or re-weighted."""

import json
import math
import statistics

import pytest
import torch

from envgym.env import ToolWorld
from envgym.errors import UsageError
from envgym.spec.environment import load_spec
from envgym.terms import total
from envgym_trainer.config import TrainConfig
from envgym_trainer.config.reward_weights import RewardWeightsConfig
from envgym_trainer.rollout.group_scorer import GroupScorer
from envgym_trainer.rollout.plans import PlanContext, open_plan
from envgym_trainer.run.folder import RunFolder
from envgym_trainer.training.interrupt import GracefulStop, StopRequested
from tests.fakes.shop_env import write as write_shop
from tests.trainer.algorithms.test_attribution import of_terms
from tests.trainer.learner.test_mismatch_run import SETTINGS, WORDY, lines
from tests.trainer.rollout.scored_groups import PARTS
from tests.trainer.training.runs import run


@pytest.fixture
def layer(tmp_path):
    """Return a function that builds the shop's reward layer from settings."""
    (tmp_path / "parts.py").write_text(PARTS)
    worlds = []
    said_aloud = []

    def make(*settings, weights=None, find=lambda names: {}):
        spec = load_spec(write_shop(tmp_path), settings)
        world = ToolWorld(spec)
        worlds.append(world)
        plan = open_plan(PlanContext(spec, TrainConfig(), world, model=None))
        made = GroupScorer(world, weights or RewardWeightsConfig(), find, said_aloud.append, plan)
        made.told = said_aloud
        return made

    yield make
    for world in worlds:
        world.close()


@pytest.fixture
def env(tmp_path):
    (tmp_path / "parts.py").write_text(PARTS)
    (tmp_path / "rewards.py").write_text(WORDY)
    return str(write_shop(tmp_path))


MIXED = [
    "reward.words={from: parts.py:words, weight: 0.05, scale: running}",
    "reward.long={from: parts.py:longest, weight: 0.5}",
]


def test_a_run_stores_what_each_advantage_is_made_of(env, tmp_path):
    settings = [
        *SETTINGS,
        *MIXED,
        "reward.step={from: parts.py:step, weight: 0.0}",
        "train.steps=2",
    ]
    _, folder = run(tmp_path / "r", *settings, env=env)
    trained = [
        (step, episode)
        for step, phase, episode in folder.episodes()
        if phase == "grpo" and not episode.is_void
    ]
    assert len(trained) > 8
    for step, episode in trained:
        assert episode.reward == pytest.approx(total(episode.reward_terms), abs=1e-9)
        assert episode.reward_parts["step"] == step - 1
        assert sum(episode.advantage_parts.values()) == pytest.approx(episode.advantage, abs=1e-6)
        assert episode.reward_terms["long"].value in (0.0, 1.0)
    for line in lines(folder):
        assert sum(
            value for name, value in line.items() if name.startswith("advantage/")
        ) == pytest.approx(1.0)
        assert line["rewards/words/running_std"] > 0


def test_a_resumed_run_goes_on_with_the_same_scales_and_weights(env, tmp_path):
    settings = [
        *SETTINGS,
        *MIXED,
        "train.reward_weights={mode: spread, rate: 0.5}",
        "train.rollout.deterministic=true",
    ]
    _, whole = run(tmp_path / "whole", *settings, "train.steps=3", env=env)
    _, part = run(tmp_path / "part", *settings, "train.steps=1", env=env)
    _, part = run(part.path, *settings, "train.steps=3", env=env, resume=True)
    keep = lambda folder: [
        {n: v for n, v in line.items() if n.startswith(("reward", "advantage"))}
        for line in lines(folder)
    ]
    assert keep(whole) == keep(part)
    factors = [line["reward_weights/words"] for line in lines(whole)]
    assert len(set(factors)) > 1


def test_a_prefetched_step_enters_the_running_scale_only_when_it_is_trained(
    env, tmp_path, monkeypatch
):
    ahead = [*SETTINGS, *MIXED, "train.rollout.one_step_ahead=true", "train.steps=3"]
    moments = lambda folder: torch.load(
        folder.latest_checkpoint()[1] / "parts.pt", weights_only=True
    )["scorer"]["moments"]["words"]
    _, whole = run(tmp_path / "whole", *ahead, env=env)
    checks = iter(range(1, 100))

    def stops_before_the_second_step(self):
        if next(checks) == 2:
            raise StopRequested

    with monkeypatch.context() as patched:
        patched.setattr(GracefulStop, "check", stops_before_the_second_step)
        with pytest.raises(StopRequested):
            run(tmp_path / "part", *ahead, env=env)
    part = RunFolder.open(tmp_path / "part")
    assert (part.latest_checkpoint()[0], moments(part)["count"]) == (1, 8)
    run(part.path, *ahead, env=env, resume=True)
    assert moments(part)["count"] == moments(whole)["count"] == 24
    values = [
        episode.reward_parts["words"] for _, phase, episode in part.episodes() if phase == "grpo"
    ]
    assert moments(part)["mean"] == pytest.approx(statistics.fmean(values))
    spread = lines(part)[-1]["rewards/words/running_std"]
    assert spread == pytest.approx(statistics.pstdev(values))


def test_likes_written_while_a_run_goes_on_are_heard(env, tmp_path):
    likes = tmp_path / "likes.jsonl"
    settings = [
        *SETTINGS,
        *MIXED,
        f"train.reward_weights={{mode: feedback, feedback_file: {likes}}}",
    ]
    _, folder = run(tmp_path / "r", *settings, "train.steps=1", env=env)
    episodes = [episode for _, phase, episode in folder.episodes() if phase == "grpo"]
    middle = statistics.median(episode.reward_parts["words"] for episode in episodes)
    judged = [
        {"episode": f"1:{n}", "like": episode.reward_parts["words"] <= middle}
        for n, episode in enumerate(episodes, start=1)
    ]
    likes.write_text("".join(json.dumps(each) + "\n" for each in judged))
    _, folder = run(folder.path, *settings, "train.steps=3", env=env, resume=True)
    assert lines(folder)[0]["reward_weights/words"] == 1.0
    assert lines(folder)[2]["reward_weights/words"] < 1.0


REFUSED = """
from envgym.errors import UsageError

asked = []

def refused(task, episodes):
    asked.append(task.id)
    if len(asked) > 2:
        raise UsageError("the server refused the key")
    return [1.0 for _ in episodes]
refused.of_group = True
"""


def test_a_users_mistake_in_the_middle_of_a_run_loses_no_step(env, tmp_path):
    (tmp_path / "parts.py").write_text(REFUSED)
    settings = [
        *SETTINGS,
        "train.rollout.groups_per_step=2",
        "reward.opinion={from: parts.py:refused}",
    ]
    with pytest.raises(UsageError, match="refused the key"):
        run(tmp_path / "r", *settings, env=env)
    folder = RunFolder.open(tmp_path / "r")
    assert [line["step"] for line in lines(folder)] == [1]
    assert folder.latest_checkpoint()[0] == 1


def test_likes_that_cannot_be_read_are_told_once_and_change_nothing(layer, tmp_path):
    likes = tmp_path / "likes.jsonl"
    judged = of_terms(1, solved=1.0)
    weighed = layer(
        weights=RewardWeightsConfig(mode="feedback", feedback_file=str(likes)),
        find=lambda names: {n: judged for n in names if n == "1:1"},
    )
    likes.write_text('{"episode": "1:1", "like": true}\n')
    weighed.observe([])
    assert weighed.told == []
    for wrong in ('{"episode": "1:1"}\n', '{"episode": "99:1", "like": true}\n'):
        likes.write_text(wrong)
        weighed.observe([])
        weighed.observe([])
    assert ["must look like" in line or "no episode 99:1" in line for line in weighed.told] == [
        True,
        True,
    ]
    assert weighed.weights.factor("solved") == 1.0


def test_an_episode_is_found_by_its_step_and_place(env, tmp_path):
    _, folder = run(tmp_path / "r", *SETTINGS, "train.steps=2", env=env)
    second = [episode for step, phase, episode in folder.episodes() if (step, phase) == (2, "grpo")]
    assert folder.find_episodes(["2:3", "9:9"]) == {"2:3": second[2]}
    assert RunFolder.open(folder.path).find_episodes([]) == {}
    assert math.isfinite(second[2].reward)
