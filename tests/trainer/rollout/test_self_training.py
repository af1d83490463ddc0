"""Self-training: a bounded task pool with few true labels, and majority votes for the rest.

The true answers of unlabelled tasks never affect a reward.
"""

import random

import pytest
import torch

from envgym.env import ToolWorld
from envgym.spec.environment import load_spec
from envgym.terms import Term
from envgym_trainer.config import TrainConfig
from envgym_trainer.config.reward_weights import RewardWeightsConfig
from envgym_trainer.rollout.group_scorer import GroupScorer
from envgym_trainer.rollout.plans import PlanContext, open_plan
from envgym_trainer.rollout.rollout_batch import RolloutBatch
from envgym_trainer.rollout.task_sampler import TaskSampler
from tests.fakes.quiz_env import write as write_quiz
from tests.trainer.config.test_algorithms import VOID
from tests.trainer.rollout.self_training_groups import answered, group_of, nobody_plays


@pytest.fixture
def open_quiz(tmp_path):
    """Return a function that builds the quiz's labels and reward layer from settings.

    The labels have begun, unless `begun` is false.
    """
    worlds = []

    def make(*settings, begun=True, play=None):
        spec = load_spec(write_quiz(tmp_path), settings)
        config = TrainConfig.of(spec.train)
        world = ToolWorld(spec)
        worlds.append(world)
        labels = open_plan(PlanContext(spec, config, world, torch.nn.Linear(2, 2)))
        if begun:
            labels.start_step(play or nobody_plays)
        return labels, GroupScorer(
            world, RewardWeightsConfig(), lambda names: {}, lambda line: None, labels
        )

    yield make
    for world in worlds:
        world.close()


def tasks_of(labels):
    """Return a task with a true label and one without."""
    return min(labels.labelled), min(set(labels.pool) - labels.labelled)


def rewards(group):
    return [episode.reward for episode in group]


def test_a_task_without_a_label_is_paid_by_the_vote_and_one_with_a_label_by_the_truth(open_quiz):
    labels, layer = open_quiz()
    labelled, unlabelled = tasks_of(labels)
    truth = [0.0, 0.0, 1.0]
    voted, true = layer.score(
        [group_of(unlabelled, "774", truth), group_of(labelled, "774", truth)], step=0
    ).groups
    assert (rewards(voted), rewards(true)) == ([1.0, 1.0, 0.0], [0.0, 0.0, 1.0])
    assert voted[0].reward_terms == {"solved": Term(None, None, 1.0), "agreed": Term(1.0, 1.0, 1.0)}
    assert true[0].reward_terms == {"solved": Term(0.0, 0.0, 1.0), "agreed": Term(None, None, 1.0)}


@pytest.mark.parametrize("seed", range(20))
def test_the_truth_of_a_task_without_a_label_changes_nothing_that_is_learned(open_quiz, seed):
    rng = random.Random(seed)
    labels, layer = open_quiz("train.plan.keep_fraction=0.5")
    tasks = [task for task in labels.pool if task not in labels.labelled]
    answers = {task: [rng.choice("123") for _ in range(4)] for task in tasks}

    def learned(truth):
        groups = [
            group_of(task, answers[task], [float(truth()) for _ in range(4)]) for task in tasks
        ]
        played = labels.select_groups(
            RolloutBatch(layer.score(groups, step=0).groups), len(tasks) // 2
        )
        return [(group[0].task_id, rewards(group)) for group in played.groups]

    assert learned(lambda: 0) == learned(lambda: 1) == learned(lambda: rng.choice([0, 1]))


def test_parts_that_need_no_label_stay_and_all_others_are_silent_turn_by_turn_too(
    open_quiz, tmp_path
):
    (tmp_path / "parts.py").write_text(
        "def form(evidence): return 1.0\ndef near(evidence): return 1.0\n"
    )
    extra = [
        "reward.form={from: parts.py:form, weight: 0.5}",
        "reward.near={from: parts.py:near, per: turn}",
    ]
    labels, layer = open_quiz(*extra, "train.plan.label_free_parts=[form]")
    _, unlabelled = tasks_of(labels)
    near = Term(1.0, 1.0, 1.0, by_turn=(1.0,))
    [group] = layer.score(
        [[answered(unlabelled, 7, form=Term(1.0, 1.0, 0.5), near=near) for _ in range(2)]], step=0
    ).groups
    assert rewards(group) == [1.5, 1.5]
    assert group[0].reward_terms["near"] == Term(None, None, 1.0)
    assert group[0].turn_rewards == (1.5,)


def test_a_task_that_turns_out_to_have_no_truth_is_voted_on(open_quiz):
    labels, layer = open_quiz()
    labelled, _ = tasks_of(labels)
    [group] = layer.score(
        [[answered(labelled, answer, Term(None, None, 1.0)) for answer in "774"]], step=0
    ).groups
    assert rewards(group) == [1.0, 1.0, 0.0]


def test_the_pool_and_its_labels_follow_from_the_seed(open_quiz):
    first, again, other = (
        open_quiz(f"train.seed={seed}", "train.plan.pool_size=200")[0] for seed in (3, 3, 4)
    )
    assert (first.pool, first.labelled) == (again.pool, again.labelled)
    assert set(first.pool).isdisjoint(other.pool)
    assert len(first.pool) == 200
    assert 30 <= len(first.labelled) <= 70  # a quarter, chosen by each task's hash


def test_a_budget_binds_and_levels_with_the_truth_are_outside_of_it(open_quiz):
    labels, _ = open_quiz(
        "train.plan={name: self_training, pool_size: 60, true_label_fraction: 1.0, "
        "max_true_labels: 5, labelled_levels: [L0]}"
    )
    levels = [labels.tasks.templates[task.split("/")[1]].level for task in labels.labelled]
    easy = [task for task in labels.pool if "/same/" in task]
    assert (levels.count("L0"), levels.count("L1")) == (len(easy), 5)


def test_every_task_comes_once_before_any_comes_again(open_quiz):
    labels, _ = open_quiz()
    drawn = labels.choose_tasks(random.Random(0), 30)
    assert sorted(drawn[:12]) == sorted(labels.pool)
    assert sorted(drawn[12:24]) == sorted(labels.pool)
    assert all(
        "/same/" in task for task in labels.choose_tasks(random.Random(0), 30, levels=["L0"])
    )


def test_steps_play_the_pool_and_the_warm_start_only_levels_with_the_truth(open_quiz):
    labels, _ = open_quiz("train.plan.labelled_levels=[L0]")
    sampler = TaskSampler(labels.spec, labels.config, labels.tasks, labels)
    tasks = lambda step, **more: {
        request.task for request in sampler.draws(step, **more).requests(40, 1)
    }
    assert all(task.startswith("train/same/") for task in tasks(1))
    assert tasks(3, done=1) == set(labels.pool)


def test_a_share_of_each_step_can_be_of_labelled_tasks(open_quiz):
    labels, _ = open_quiz(
        "train.plan={name: self_training, pool_size: 100, true_label_fraction: 0.05, "
        "labelled_group_fraction: 0.3}"
    )
    rng = random.Random(0)
    counts = [
        sum(task in labels.labelled for task in labels.choose_tasks(rng, 8)) for _ in range(400)
    ]
    assert set(counts) == {2, 3}
    assert sum(counts) / len(counts) == pytest.approx(2.4, abs=0.1)


def test_the_most_agreed_groups_are_kept_after_those_with_a_true_label(open_quiz):
    labels, _ = open_quiz("train.plan.keep_fraction=0.5")
    labelled, _ = tasks_of(labels)
    split, whole, torn = sorted(set(labels.pool) - labels.labelled)[:3]
    groups = [
        group_of(split, "1123"),
        group_of(whole, "4444"),
        group_of(labelled, "5678"),
        group_of(torn, "1234"),
    ]
    assert labels.groups_to_collect(2) == 4
    played = labels.select_groups(RolloutBatch(groups), 2)
    assert [group[0].task_id for group in played.groups] == [whole, labelled]
    assert [group[0].task_id for group in played.low_agreement] == [split, torn]
    metrics = labels.metrics(played)
    assert metrics["plan/majority_ratio"] == pytest.approx((0.5 + 1.0 + 0.25) / 3)
    assert (metrics["plan/true_labels"], metrics["plan/disagreed"]) == (1.0, 2.0)
    assert len(played.all_groups) == 4


def test_the_easiest_of_each_level_are_those_that_the_policy_agrees_on(open_quiz):
    def play(tasks):
        return [
            group_of(task, "5555" if number % 3 == 0 else "1234")
            for number, task in enumerate(tasks)
        ]

    labels, _ = open_quiz(
        "train.plan={name: self_training, pool_size: 60, easiest_fraction: 0.2}", play=play
    )
    whole, _ = open_quiz("train.plan.pool_size=60")
    agreed = set(whole.pool[::3])
    assert set(labels.pool) <= agreed
    for name in ("/same/", "/after/"):
        count = sum(name in task for task in whole.pool)
        assert sum(name in task for task in labels.pool) == round(0.2 * count)


def test_a_frozen_teacher_votes_once_a_task_and_an_averaged_one_at_every_step(open_quiz):
    for teacher, heard_again in (("frozen", []), ("average", "the task")):
        labels, layer = open_quiz(f"train.plan.teacher={teacher}")
        _, task = tasks_of(labels)
        group = group_of(task, "774")
        labels.start_step(nobody_plays)
        assert labels.tasks_without_votes([group]) == [task]
        labels.record_votes([task], [group_of(task, "444")])
        # by the teacher's label
        assert rewards(layer.score([group], step=0).groups[0]) == [
            0.0,
            0.0,
            1.0,
        ]
        labels.start_step(nobody_plays)
        assert labels.tasks_without_votes([group]) == ([task] if heard_again else [])
    silent, layer = open_quiz("train.plan.teacher=frozen")
    silent.record_votes([task], [[VOID, VOID]])
    assert [e.reward_terms["agreed"].value for e in layer.score([group], step=0).groups[0]] == [
        None
    ] * 3
