"""Contract of every plan in the folder, and of a custom plan that is named in the YAML."""

import random
from types import SimpleNamespace

import pytest

from envgym.env import ToolWorld
from envgym.errors import SpecError
from envgym.spec.environment import load_spec
from envgym_trainer.config import TrainConfig
from envgym_trainer.rollout.plans import PlanContext, TrainingPlan, open_plan, plan_names
from envgym_trainer.rollout.rollout_batch import RolloutBatch
from envgym_trainer.training.launch import resolve
from tests.fakes.quiz_env import write as write_quiz
from tests.trainer.rollout.self_training_groups import group_of, nobody_plays, run

OWN = """
from envgym_trainer.rollout.plans.ordinary import OrdinaryPlan

class OneTask(OrdinaryPlan):
    \'\'\'Train on one task, without the parts named in `train.plan.without`.\'\'\'

    def choose_tasks(self, rng, count, *, levels=(), weights=None):
        return ["train/same/7"] * count

    def mask_parts(self, group):
        return frozenset(self.context.config.plan.without)

def no_plan(context):
    return object()
"""


@pytest.fixture
def open_quiz_plan(tmp_path):
    """Return a function that opens a plan of the quiz from its settings."""
    worlds = []

    def make(*settings):
        spec = load_spec(write_quiz(tmp_path), settings)
        worlds.append(ToolWorld(spec))
        model = SimpleNamespace(named_parameters=list)
        return open_plan(PlanContext(spec, TrainConfig.of(spec.train), worlds[-1], model))

    yield make
    for world in worlds:
        world.close()


def test_the_folder_has_the_two_plans():
    assert set(plan_names()) >= {"ordinary", "self_training"}


@pytest.mark.parametrize("name", plan_names())
def test_a_plan_keeps_the_contract(open_quiz_plan, name):
    plan = open_quiz_plan(f"train.plan={name}")
    assert isinstance(plan, TrainingPlan)
    plan.start_step(nobody_plays)
    assert plan.groups_to_collect(3) >= 3
    tasks = plan.choose_tasks(random.Random(0), 3)
    assert tasks == plan.choose_tasks(random.Random(0), 3)
    assert len(tasks) == 3
    assert all(task.startswith("train/") for task in tasks)
    groups = [group_of(task, "774") for task in tasks]
    assert plan.collect_votes(groups, nobody_plays) == []
    assert plan.mask_parts(groups[0]) <= {"solved", "agreed"}
    batch = plan.select_groups(RolloutBatch(groups), 2)
    assert 2 <= len(batch.groups) <= 3
    assert len(batch.all_groups) == 3
    assert all(isinstance(value, float) for value in plan.metrics(batch).values())
    again = open_quiz_plan(f"train.plan={name}", "train.seed=5")
    again.load_state_dict(plan.state_dict())
    again.start_step(nobody_plays)
    assert again.state_dict() == plan.state_dict()


@pytest.mark.parametrize(
    ("name", "other"), [("ordinary", "self_training"), ("self_training", "ordinary")]
)
def test_a_run_may_continue_from_a_run_with_another_plan(open_quiz_plan, name, other):
    before = open_quiz_plan(f"train.plan={other}")
    before.start_step(nobody_plays)
    plan = open_quiz_plan(f"train.plan={name}")
    fresh = plan.state_dict()
    plan.load_state_dict(before.state_dict())
    assert plan.state_dict() == fresh


def test_a_plan_in_a_file_next_to_the_yaml_chooses_tasks_and_masks_parts(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    env = write_quiz(tmp_path)
    settings = ["train.plan={name: 'own.py:OneTask', without: [agreed]}", "train.steps=1"]
    _, folder = run(tmp_path / "r", *settings, env=env)
    episodes = [episode for _, phase, episode in folder.episodes() if phase == "grpo"]
    assert {episode.task_id for episode in episodes} == {"train/same/7"}
    assert all(episode.reward_parts["agreed"] is None for episode in episodes)


def test_an_unknown_plan_is_refused_before_the_model_is_loaded(tmp_path):
    with pytest.raises(SpecError, match="no plan 'self_trainin', did you mean 'self_training'"):
        resolve(str(write_quiz(tmp_path)), ["train.plan=self_trainin"])


def test_an_option_that_the_plan_does_not_have_is_refused(open_quiz_plan, tmp_path):
    with pytest.raises(SpecError, match="the ordinary plan has no option 'pool_size'"):
        open_quiz_plan("train.plan={name: ordinary, pool_size: 3}")
    with pytest.raises(SpecError, match=r"train\.plan\.pool_sise.*pool_size"):
        open_quiz_plan("train.plan={name: self_training, pool_sise: 3}")


def test_an_object_that_is_no_plan_is_refused_with_the_missing_methods(open_quiz_plan, tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    with pytest.raises(SpecError, match=r"'own.py:no_plan' has no .*choose_tasks.*Derive it from"):
        open_quiz_plan("train.plan=own.py:no_plan")
