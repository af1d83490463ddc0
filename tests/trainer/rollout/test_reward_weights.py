"""Weights of reward parts adapt to their spread or to feedback."""

import json
import random

import pytest
import torch

from envgym.errors import UsageError
from envgym.terms import Term
from envgym_trainer.config import TrainConfig
from envgym_trainer.config.reward_weights import RewardWeightsConfig
from envgym_trainer.rollout.reward_weights import RewardWeights, fit_feedback_weights, read_feedback
from tests.trainer.algorithms.test_attribution import of_terms


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
