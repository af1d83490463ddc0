"""Group scoring in training: judging a group together, scaling by spread, re-weighting parts.

Each reward records its terms.
"""

import dataclasses
import json
import random
import statistics

import pytest

from envgym.env import ToolWorld
from envgym.spec.environment import load_spec
from envgym.terms import Term
from envgym_trainer.config import TrainConfig
from envgym_trainer.config.reward_weights import RewardWeightsConfig
from envgym_trainer.rollout.group_scorer import GroupScorer, RunningMoments
from envgym_trainer.rollout.plans import PlanContext, open_plan
from tests.fakes.shop_env import write as write_shop
from tests.trainer.algorithms.test_attribution import of_terms
from tests.trainer.config.test_algorithms import VOID
from tests.trainer.rollout.scored_groups import PARTS


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
