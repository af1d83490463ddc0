"""Group scoring in training: judging a group together, scaling by spread, re-weighting parts.

Each reward records its terms.
"""

import dataclasses
import json
import math
import random
import statistics

import pytest
import torch

from envgym.env import ToolWorld
from envgym.errors import UsageError
from envgym.spec.environment import load_spec
from envgym.terms import Term, total
from envgym_trainer.config import TrainConfig
from envgym_trainer.config.reward_weights import RewardWeightsConfig
from envgym_trainer.rollout.group_scorer import GroupScorer, RunningMoments
from envgym_trainer.rollout.plans import PlanContext, open_plan
from envgym_trainer.rollout.reward_weights import RewardWeights, fit_feedback_weights, read_feedback
from envgym_trainer.run.folder import RunFolder
from envgym_trainer.training.interrupt import GracefulStop, StopRequested
from tests.fakes.shop_env import write as write_shop
from tests.trainer.algorithms.test_attribution import of_terms
from tests.trainer.config.test_algorithms import VOID
from tests.trainer.learner.test_mismatch_run import SETTINGS, WORDY, lines
from tests.trainer.training.test_train import run

PARTS = """
def longest(task, episodes):
    '''1 for the episode with the longest last message of its group.'''
    lengths = [len(episode.messages[-1].content) for episode in episodes]
    return [float(length == max(lengths)) for length in lengths]
longest.of_group = True

def down(task, episodes):
    raise ConnectionError("judge is down")
down.of_group = True
down.grounded = False

def short_of(task, episodes):
    return [1.0]
short_of.of_group = True

def words(evidence):
    return float(sum(len(text.split()) for text in evidence.assistant_messages))

def step(evidence):
    return float(evidence.step)
"""


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


def said(text, **terms):
    made = of_terms(1, **terms)
    last = dataclasses.replace(made.messages[-1], content=text)
    return dataclasses.replace(
        made, task_id="train/reprice/1", messages=(*made.messages[:-1], last)
    )


def rewards(groups):
    return [[episode.reward for episode in group] for group in groups]


def test_without_any_of_it_rewards_are_the_environments_own(layer):
    group = [said("a", solved=1.0), VOID]
    idle = layer()
    assert idle.is_idle
    assert idle.score([group], step=3).groups == [group]
    assert idle.score([group], step=3).groups[0][0] is group[0]


def test_a_part_of_groups_is_scored_among_siblings_and_void_ones_are_not_asked(layer):
    judged = layer("reward.long={from: parts.py:longest, weight: {0: 0.5, 10: 1.5}}")
    none = Term(None, None, 0.5)
    group = [
        said("a", solved=1.0, calls=0.0, long=none),
        VOID,
        said("bbb", solved=0.0, calls=0.0, long=none),
    ]
    (first, void, second) = judged.score([group], step=10).groups[0]
    assert void is VOID
    assert (first.reward, second.reward) == (1.0, 1.5)
    assert second.reward_parts["long"] == 1.0
    assert second.reward_terms["long"] == Term(1.0, 1.0, 1.5)
    assert second.turn_rewards == (1.5,)


@pytest.mark.parametrize("broken", ["down", "short_of"])
def test_a_judge_that_breaks_is_masked_and_counted_and_never_a_zero(layer, broken, caplog):
    judged = layer(f"reward.opinion={{from: parts.py:{broken}, range: [-1, 1]}}")
    none = Term(None, None, 1.0)
    group = judged.score(
        [
            [
                said("a", solved=1.0, calls=0.0, opinion=none),
                said("b", solved=0.0, calls=0.0, opinion=none),
            ]
        ],
        step=0,
    ).groups[0]
    assert rewards([group]) == [[1.0, 0.0]]
    assert group[0].reward_terms["opinion"].value is None
    assert judged.drain_metrics() == {"rewards/opinion/failed": 1.0}
    assert judged.drain_metrics() == {"rewards/opinion/failed": 0.0}
    assert "cannot judge a group of task 'train/reprice/1'" in caplog.text


def test_what_a_judge_was_asked_is_counted(layer):
    judged = layer(
        "reward.tone={from: judge, "
        "options: {url: 'http://127.0.0.1:9/v1', model: m, rubric: 'Polite?'}}"
    )
    assert {
        "judge/requests",
        "judge/judgements",
        "judge/unreachable",
    } <= judged.drain_metrics().keys()
    assert not any(name.startswith("judge/") for name in layer().drain_metrics())


def test_two_runs_in_one_process_count_their_own_judges(layer):
    options = "{url: 'http://127.0.0.1:9/v1', model: m, rubric: 'Polite?', max_calls: 2}"
    first, second = (layer(f"reward.tone={{from: judge_group, options: {options}}}") for _ in "ab")
    group = [said("a", solved=1.0, calls=1.0), said("b", solved=0.0, calls=1.0)]
    for asked, masked in ((2.0, 0.0), (2.0, 1.0)):
        first.score([group], step=0)
        numbers = first.drain_metrics()
        assert (numbers["judge/requests"], numbers["judge/budget"]) == (asked, masked)
        assert second.drain_metrics()["judge/requests"] == 0.0
    second.score([group], step=0)
    assert second.drain_metrics()["judge/requests"] == 2.0


def test_a_running_scale_divides_by_the_deviation_of_all_so_far(layer):
    scaled = layer("reward.words={from: parts.py:words, scale: running, weight: 2.0}")
    make = lambda value: said("a", solved=0.0, calls=0.0, words=Term(value, value, 2.0))
    first = scaled.score([[make(10.0), make(30.0)]], step=0)
    assert rewards(first.groups) == [[pytest.approx(2.0), pytest.approx(6.0)]]  # deviation 10
    scaled.observe(first.groups, [first.part_values])
    second = scaled.score([[make(value) for value in (10.0, 30.0, 50.0, 70.0)]], step=1)
    spread = statistics.pstdev([10, 30, 10, 30, 50, 70])
    expected = [pytest.approx(2 * value / spread) for value in (10, 30, 50, 70)]
    assert rewards(second.groups) == [expected]
    scaled.observe(second.groups, [second.part_values])
    again = layer("reward.words={from: parts.py:words, scale: running, weight: 2.0}")
    again.load_state_dict(json.loads(json.dumps(scaled.state_dict())))
    metrics = {"rewards/words/running_std": pytest.approx(spread)}
    assert again.drain_metrics() == scaled.drain_metrics() == metrics


def test_scoring_changes_no_state_and_a_later_scoring_of_the_step_includes_the_earlier(layer):
    scaled = layer("reward.words={from: parts.py:words, scale: running}")
    make = lambda value: said("a", solved=0.0, calls=0.0, words=Term(value, value, 1.0))
    before = scaled.state_dict()
    first = scaled.score([[make(10.0), make(30.0)]], step=0)
    more = scaled.score([[make(50.0), make(70.0)]], step=0, earlier=[first.part_values])
    assert scaled.state_dict() == before
    spread = statistics.pstdev([10, 30, 50, 70])
    assert rewards(more.groups) == [[pytest.approx(50 / spread), pytest.approx(70 / spread)]]
    values = [first.part_values, more.part_values]
    assert scaled.drain_metrics(values) == {"rewards/words/running_std": pytest.approx(spread)}
    scaled.observe(first.groups + more.groups, values)
    assert scaled.state_dict()["moments"]["words"]["count"] == 4


def test_moments_in_pieces_are_moments_of_the_whole():
    rng = random.Random(3)
    moments = RunningMoments()
    values = []
    for _ in range(20):
        piece = [rng.gauss(5, 2) for _ in range(rng.randrange(0, 5))]
        moments.add(piece)
        values += piece
    assert moments.deviation == pytest.approx(statistics.pstdev(values))
    assert RunningMoments(3, 1.0, 0.0).deviation == 1.0  # all values are equal


def watched(weights, spreads, *, seed=0, groups=6):
    """Return groups in which each named part has the given spread, scored with current weights."""
    rng = random.Random(seed)

    def make():
        values = {name: spread * rng.choice([-1, 1]) for name, spread in spreads.items()}
        return of_terms(
            **{name: Term(value, value, weights.factor(name)) for name, value in values.items()}
        )

    return [[make() for _ in range(8)] for _ in range(groups)]


def test_by_spread_no_part_drowns_the_others_and_noise_is_not_blown_up():
    config = RewardWeightsConfig(mode="spread", rate=0.5, max_factor=8)
    weights = RewardWeights(config, ["loud", "quiet", "dead"], grounded=[])
    for seed in range(40):
        weights.observe(watched(weights, {"loud": 2.0, "quiet": 0.5, "dead": 0.0}, seed=seed))
    assert weights.factor("loud") == pytest.approx(0.5, rel=0.05)
    assert weights.factor("quiet") == pytest.approx(2.0, rel=0.05)
    assert weights.factor("dead") == 1.0
    assert set(weights.metrics()) == {
        "reward_weights/loud",
        "reward_weights/quiet",
        "reward_weights/dead",
    }
    other = RewardWeights(config, ["loud", "quiet"], grounded=[])
    other.load_state_dict(json.loads(json.dumps(weights.state_dict())))
    assert other.factor("quiet") == weights.factor("quiet")


def test_a_factor_stays_within_its_bound():
    weights = RewardWeights(
        RewardWeightsConfig(mode="spread", rate=1.0, max_factor=2), ["loud", "quiet"], grounded=[]
    )
    for seed in range(5):
        weights.observe(watched(weights, {"loud": 100.0, "quiet": 0.01}, seed=seed))
    assert (weights.factor("loud"), weights.factor("quiet")) == (
        pytest.approx(0.5),
        pytest.approx(2.0),
    )


def test_likes_raise_the_grounded_part_that_they_go_with_and_nothing_else():
    rng = random.Random(5)
    weights = RewardWeights(
        RewardWeightsConfig(mode="feedback", feedback_file="x"),
        ["brief", "polite", "judge"],
        grounded=["brief", "polite"],
    )
    likes = []
    for _ in range(40):
        values = {"brief": rng.random(), "polite": rng.random(), "judge": rng.random()}
        likes.append((values, values["brief"] > 0.5))
    weights.apply_feedback(likes)
    assert weights.factor("brief") > 2 > 1.5 > weights.factor("polite") > 0.5
    assert weights.factor("judge") == 1.0
    weights.apply_feedback([])  # the feedback file is empty now
    assert [weights.factor(name) for name in weights.names] == [1.0, 1.0, 1.0]


def test_slopes_are_those_of_a_ridge_fit_worked_out_by_descent():
    rng = random.Random(2)
    values = [{"a": rng.gauss(0, 3), "b": rng.gauss(1, 0.2)} for _ in range(30)]
    liked = [each["a"] + rng.gauss(0, 3) > 0 for each in values]
    table = torch.tensor([[each["a"], each["b"]] for each in values], dtype=torch.float64)
    design = (table - table.mean(0)) / table.std(0, unbiased=False)
    slopes = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([slopes], max_iter=200, tolerance_grad=1e-12)

    def loss():
        optimiser.zero_grad()
        logits = slopes[0] + design @ slopes[1:]
        fit = torch.nn.functional.binary_cross_entropy_with_logits(
            logits, torch.tensor(liked).double(), reduction="sum"
        )
        penalised = fit + 2.0 / 2 * slopes[1:].square().sum() + 1e-6 / 2 * slopes[0] ** 2
        penalised.backward()
        return penalised

    optimiser.step(loss)
    found = fit_feedback_weights(values, liked, ["a", "b"], prior=2.0)
    assert [found["a"], found["b"]] == pytest.approx(slopes[1:].tolist(), abs=1e-5)
    assert fit_feedback_weights(values, [True] * 30, ["a"], prior=1.0)["a"] == pytest.approx(
        0.0, abs=1e-3
    )
    assert fit_feedback_weights([{"a": 1.0}, {}], [True, False], ["a"], prior=1.0) == {"a": 0.0}


@pytest.mark.parametrize(
    "line",
    [
        '{"episode": "12", "like": true}',
        '{"episode": "1:2", "like": 1}',
        "yes",
        "[]",
        '{"like": true}',
    ],
)
def test_a_like_that_cannot_be_read_is_told_with_its_line(tmp_path, line):
    (tmp_path / "likes.jsonl").write_text('{"episode": "1:2", "like": true}\n\n' + line + "\n")
    with pytest.raises(UsageError, match=r"likes\.jsonl:3: must look like"):
        read_feedback(tmp_path / "likes.jsonl")


def test_the_last_word_about_an_episode_counts_and_no_file_is_no_likes(tmp_path):
    file = tmp_path / "likes.jsonl"
    assert read_feedback(file) == {}
    file.write_text('{"episode": "1:2", "like": true}\n{"episode": "1:2", "like": false}\n')
    assert read_feedback(file) == {"1:2": False}


def test_feedback_needs_its_file_and_a_file_needs_feedback():
    for block in ({"mode": "feedback"}, {"feedback_file": "likes.jsonl"}):
        with pytest.raises(ValueError, match="feedback needs feedback_file"):
            TrainConfig.model_validate({"reward_weights": block})


# --- whole runs ---


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
