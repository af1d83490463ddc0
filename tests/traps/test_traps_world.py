"""Traps 12, 13, 20, 27-29: groups, endings, resuming, and failures of the world."""

import dataclasses
import functools

import pytest
import torch
from rich.console import Console

from envgym.env import ToolWorld
from envgym.playing import play
from envgym.policies.scripted import ScriptedPolicy
from envgym_trainer.algorithms.credit import build_samples
from envgym_trainer.config.algorithm import AdvantageConfig, AlgorithmConfig
from envgym_trainer.inference.policies.demonstration import DemoPolicy
from envgym_trainer.learner.learner import Learner
from envgym_trainer.learner.update_settings import UpdateSettings
from envgym_trainer.model.chat import Chat
from envgym_trainer.run.display import Display
from envgym_trainer.run.folder import RunFolder
from envgym_trainer.run.logger import RunLogger
from envgym_trainer.training.launch import resolve
from envgym_trainer.training.loop import Trainer
from tests.fakes.faulty_env import Faulty
from tests.fakes.shop_env import shop
from tests.fakes.small_models import byte_tokenizer
from tests.fakes.tiny_lora import random_samples, tiny_model
from tests.fakes.trap_worlds import byte_engine

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


# --- groups ---


@pytest.fixture(scope="module")
def groups(tmp_path_factory):
    """Return the groups that one step of a real run plays."""
    spec, config, _ = resolve("guess", SMALL)
    folder = RunFolder.create(tmp_path_factory.mktemp("runs"), "r")
    with RunLogger(folder) as monitor, Display({}, console=Console(quiet=True)) as display:
        trainer = Trainer(spec, config, folder, monitor, display)
        yield trainer.collect_rollouts(1).groups
        trainer.close()


@pytest.mark.trap(12)
def test_each_group_holds_exactly_its_episodes_of_one_task_and_no_two_groups_share_one(groups):
    assert [len(group) for group in groups] == [4, 4, 4]
    tasks = [{episode.task_id for episode in group} for group in groups]
    assert [len(names) for names in tasks] == [1, 1, 1]
    assert len(set.union(*tasks)) == 3
    # each group member samples with its own seed
    assert len({episode.seed for group in groups for episode in group}) == 12


@pytest.mark.trap(13)
def test_the_members_of_a_group_start_from_one_state_with_one_prompt_and_other_groups_from_others(
    groups,
):
    starts = [
        {
            (e.start_hash, e.messages[:2], e.tokens.token_ids[: e.tokens.loss_mask.index(True)])
            for e in g
        }
        for g in groups
    ]
    assert [len(start) for start in starts] == [1, 1, 1]
    assert all(start_hash for group in starts for start_hash, *_ in group)
    assert len({start_hash for group in starts for start_hash, *_ in group}) > 1


# --- endings ---


@pytest.mark.trap(20)
def test_a_truncated_episode_is_not_terminated_keeps_what_it_earned_and_is_learned_from(tmp_path):
    world = ToolWorld(shop(tmp_path))
    task = world.tasks.task("train/reprice/0")
    right = "set_price(item={item!r}, price={price})".format(**task.oracle[0].arguments)
    endings = {
        "cut": play(
            world.env(), ScriptedPolicy([right, *["price(item='I1')"] * 3]), seed=0, task=task.id
        ),
        "ended": play(world.env(), ScriptedPolicy([right, "Done."]), seed=0, task=task.id),
        "refused": play(world.env(), ScriptedPolicy(["No."]), seed=0, task=task.id),
    }
    world.close()
    told = {
        name: (e.terminated, e.truncated, e.stop_reason, e.reward) for name, e in endings.items()
    }
    assert told == {
        "cut": (False, True, "max_turns", 1.0),
        "ended": (True, False, "answered", 1.0),
        "refused": (True, False, "answered", 0.0),
    }
    demo = DemoPolicy(Chat(byte_tokenizer()), "pythonic").open(
        endings["cut"].messages[:2], (), seed=0, task=task
    )
    demo.reply()
    group = [dataclasses.replace(endings[name], tokens=demo.trace()) for name in ("cut", "refused")]
    assert [sample.advantage for sample in learned([group])] == [0.5, -0.5]


@pytest.mark.trap(20)
def test_an_episode_that_fills_its_context_is_truncated_unsolved_and_trained_to_its_last_token():
    _, engine = byte_engine(max_context=90)
    with engine:
        episode = play(Faulty(), engine.policy(max_new_tokens=200), seed=3)
    assert (episode.stop_reason, episode.terminated, episode.truncated, episode.success) == (
        "context",
        False,
        True,
        False,
    )
    assert episode.tokens.loss_mask.count(True) > 10
    winner = dataclasses.replace(episode, reward=1.0)
    assert [sample.num_actions for sample in learned([[episode, winner]])] == [
        sum(episode.tokens.loss_mask)
    ] * 2


@pytest.mark.trap(20)
@pytest.mark.parametrize("advantage", ["turns", "gigpo"])
def test_the_turn_that_filled_the_context_has_its_share_of_credit_for_turns(advantage):
    _, engine = byte_engine()
    with engine:
        whole = play(Faulty(), engine.policy(max_new_tokens=20), seed=3)
    _, engine = byte_engine(max_context=len(whole.tokens.token_ids) - 5)
    with engine:
        episode = play(Faulty(), engine.policy(max_new_tokens=20), seed=3)
    assert (episode.stop_reason, episode.messages[-1].role) == ("context", "assistant")
    assert episode.turns == len(episode.turn_rewards) == len(episode.turn_invalid_calls) > 1
    assert episode.turn_rewards[-1] == 0.0
    winner = dataclasses.replace(
        episode, reward=1.0, turn_rewards=(*episode.turn_rewards[:-1], 1.0)
    )
    lost, won = build_samples(
        [[episode, winner]], AlgorithmConfig(advantage=AdvantageConfig(name=advantage))
    )
    last = [index for index, sampled in enumerate(episode.tokens.loss_mask) if sampled][-1]
    assert lost.token_advantages[last] < 0 < won.token_advantages[last]


# --- resuming ---


@pytest.mark.trap(27)
def test_two_and_two_steps_with_a_file_in_between_are_four_steps_to_the_bit(tmp_path):
    steps = [random_samples(seed, groups=1) for seed in range(4)]

    def learner() -> Learner:
        return Learner(tiny_model(dtype=torch.float32), warmup_steps=3, weight_decay=0.01)

    def learn(learner: Learner, steps) -> Learner:
        for samples in steps:
            learner.update(samples, UpdateSettings(learning_rate=1e-2))
        return learner

    torch.save(learn(learner(), steps[:2]).state_dict(), tmp_path / "half.pt")
    resumed = learner()
    resumed.load_state_dict(torch.load(tmp_path / "half.pt", weights_only=True))
    whole = learn(learner(), steps)
    halves = learn(resumed, steps[2:])
    assert all(
        torch.equal(whole.parameters[name], halves.parameters[name]) for name in whole.parameters
    )
    assert whole.updates == halves.updates == 4
