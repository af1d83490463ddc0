"""Self-training runs: refusals at the start, records, and resume to the bit."""

import json
from types import SimpleNamespace

import pytest
import torch

from envgym.env import ToolWorld
from envgym.errors import SpecError, UsageError
from envgym.spec.environment import load_spec
from envgym.terms import Term
from envgym_trainer.config import TrainConfig
from envgym_trainer.config.reward_weights import RewardWeightsConfig
from envgym_trainer.rollout.group_scorer import GroupScorer
from envgym_trainer.rollout.plans import PlanContext, open_plan
from envgym_trainer.rollout.teacher import Teacher
from envgym_trainer.run.explain import explain
from envgym_trainer.training.launch import resolve
from tests.fakes.quiz_env import write as write_quiz
from tests.trainer.config.test_algorithms import VOID
from tests.trainer.rollout.self_training_groups import answered, group_of, nobody_plays, run
from tests.trainer.training.runs import adapter_of


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


def test_an_average_goes_its_way_to_the_policy_and_the_model_gets_its_own_back():
    model = torch.nn.Linear(1, 1, bias=False)
    weight = model.weight.data
    weight.fill_(1.0)
    teacher = Teacher(model, decay=0.75)
    weight.fill_(5.0)
    teacher.update()
    assert teacher.adapter["weight"].item() == pytest.approx(0.75 * 1 + 0.25 * 5)
    with teacher.applied():
        assert model.weight.item() == pytest.approx(2.0)
    assert model.weight.item() == 5.0
    frozen = Teacher(model, decay=1.0)
    weight.fill_(9.0)
    frozen.update()
    assert frozen.adapter["weight"].item() == 5.0
    frozen.load_state_dict(teacher.state_dict())
    assert frozen.adapter["weight"].item() == 2.0


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            ["train.evaluation.validate_every_steps=0"],
            "needs held-out tasks with true labels.*set train.evaluation.validate_every_steps",
        ),
        (["train.checks.hacking_signals=false"], "needs train.checks.hacking_signals"),
        (["train.tasks.adaptive=true"], "needs true labels"),
        (
            ["train.plan.teacher=frozen", "train.rollout.one_step_ahead=true"],
            "Leave out train.rollout.one_step_ahead",
        ),
        (
            [
                "train.plan.teacher=average",
                "train.engine={vllm: {url: 'http://localhost:1'}}",
            ],
            "Leave out train.engine=vllm",
        ),
    ],
)
def test_a_run_in_which_a_collapse_would_go_unseen_is_refused(tmp_path, settings, said):
    with pytest.raises(UsageError, match=said):
        resolve(str(write_quiz(tmp_path)), settings)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            ["reward.agreed={from: boxed_right}"],
            "needs one part of the reward that votes, and it has none",
        ),
        (["reward.more={from: majority_vote}"], "it has agreed and more"),
        (
            ["train.plan.label_free_parts=[solvd]"],
            "label_free_parts: the reward has no part 'solvd', did you mean 'solved'",
        ),
        (
            ["train.plan.labelled_levels=[L7]"],
            "labelled_levels: no training task of level 'L7'",
        ),
    ],
)
def test_a_reward_that_cannot_serve_it_is_refused(open_quiz, settings, said):
    with pytest.raises(SpecError, match=said):
        open_quiz(*settings)


def test_a_validation_without_any_truth_is_refused(open_quiz):
    labels, _ = open_quiz()
    labels.validated([answered(labels.pool[0], 1), VOID])
    with pytest.raises(UsageError, match="no validation task has a true label"):
        labels.validated([answered(labels.pool[0], 1, Term(None, None, 1.0))])


def test_its_state_comes_back(open_quiz):
    labels, _ = open_quiz("train.plan.teacher=average")
    labels.start_step(nobody_plays)
    labels.record_votes(labels.pool[:1], [group_of(labels.pool[0], "12")])
    again, _ = open_quiz("train.plan.teacher=average", "train.seed=9", begun=False)
    again.load_state_dict(labels.state_dict())
    assert (again.pool, again.labelled) == (labels.pool, labels.labelled)
    assert again.votes_for("agreed", labels.pool[0]) == [r"\boxed{1}", r"\boxed{2}"]
    assert again.teacher.adapter.keys() == {"weight", "bias"}
    again.start_step(nobody_plays)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return a run with every option on, and its environment."""
    place = tmp_path_factory.mktemp("selftrain")
    env = write_quiz(place)
    options = (
        "{name: self_training, pool_size: 12, true_label_fraction: 0.25, keep_fraction: 0.5, "
        "easiest_fraction: 0.75, teacher: average, labelled_levels: [L0]}"
    )
    settings = [
        f"train.plan={options}",
        "train.rollout.deterministic=true",
        "train.output.checkpoint_every_steps=1",
        "train.output.adapter=best",
    ]
    _, folder = run(place / "r", *settings, env=env)
    return SimpleNamespace(env=env, settings=settings, folder=folder)


def lines(folder):
    return [json.loads(line) for line in folder.episodes_file.read_text().splitlines()]


def test_a_run_plays_its_pool_learns_from_the_most_agreed_and_writes_down_who_voted(made):
    played = [line for line in lines(made.folder) if line["phase"] == "grpo"]
    ways = {
        reason: [line for line in played if line.get("excluded") == reason]
        for reason in (None, "low_agreement", "teacher")
    }
    assert {reason: len(found) for reason, found in ways.items() if reason != "teacher"} == {
        None: 2 * 3 * 4,
        "low_agreement": 2 * 3 * 4,
    }
    assert len({line["task_id"] for line in played}) <= 9
    assert ways["teacher"]
    # tasks of L0 have true labels
    assert all(line["task_id"].startswith("train/after/") for line in ways["teacher"])
    numbers = [line for line in made.folder.metrics() if line["phase"] == "grpo"]
    assert len(numbers) == 2
    for line in numbers:
        assert {
            "plan/majority_ratio",
            "plan/ground_truth_ratio",
            "plan/parsed",
            "hacking/signal/modal_answer",
        } <= line.keys()
        assert line["plan/disagreed"] == 3.0
    assert sum(line["plan/parsed"] for line in numbers) > 0  # otherwise there were no votes


def test_an_episode_explains_its_vote(made):
    played = [line for line in lines(made.folder) if line["phase"] == "grpo" and line["step"] == 21]
    place = next(
        n
        for n, line in enumerate(played, 1)
        if not line.get("excluded") and "/after/" in line["task_id"]
    )
    told = explain(made.folder, f"21:{place}")
    [vote] = [part for part in told.parts if part.name == "agreed"]
    assert len(vote.siblings) >= 4
    assert vote.is_grounded is False


def test_a_resumed_run_ends_with_the_same_bits(made, tmp_path):
    _, stopped = run(tmp_path / "r", *made.settings, "train.steps=1", env=made.env)
    run(stopped.path, *made.settings, env=made.env, resume=True)
    before = adapter_of(made.folder)
    after = adapter_of(stopped)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
