"""GSPO, CISPO, REINFORCE, the KL estimators and the importance weights.

Expected numbers are worked out by hand or by autograd of the papers' formulas.
"""

import math

import pytest
import torch

from envgym_trainer.algorithms.correction import importance_weights
from envgym_trainer.algorithms.kl import ESTIMATORS, with_kl_in_reward
from tests.fakes.losses import loss_of

POLICY = torch.tensor([0.5, 0.2, 0.15, 0.1, 0.05]).double()
REFERENCE = torch.tensor([0.1, 0.3, 0.2, 0.2, 0.2]).double()


def logs(*probabilities, grad=False):
    return torch.tensor(probabilities, dtype=torch.float64).log().requires_grad_(grad)


def gradient(loss, logprobs):
    return torch.autograd.grad(loss.loss, logprobs)[0].tolist()


# --- GSPO ---


def test_gspo_has_one_ratio_an_episode_the_geometric_mean_of_its_tokens():
    now = logs(0.8, 0.2, 0.5, grad=True)
    old = logs(0.2, 0.2, 0.5)
    episodes = torch.tensor([7, 7, 9])
    out = loss_of(
        "gspo",
        now,
        old,
        torch.tensor([1.0, 1.0, -1.0]),
        episodes,
        denominator=1.0,
        clip_low=9.0,
        clip_high=9.0,
    )
    # sqrt(4 * 1) = 2 for both tokens of episode 7; 1 for episode 9
    assert out.loss.item() == pytest.approx(-(2.0 + 2.0 - 1.0))
    assert gradient(out, now) == pytest.approx([-2.0, -2.0, 1.0])


def test_gspo_clips_whole_episodes():
    now = logs(0.8, 0.2, 0.5, grad=True)
    old = logs(0.2, 0.2, 0.5)
    episodes = torch.tensor([0, 0, 1])
    out = loss_of(
        "gspo", now, old, torch.ones(3), episodes, denominator=1.0, clip_low=0.2, clip_high=0.2
    )
    # the second token's own ratio is 1, yet it is clipped too
    assert gradient(out, now) == pytest.approx([0.0, 0.0, -1.0])
    assert out.sums["clip_ratio/high_mean"] == 2


def test_gspos_gradient_is_that_of_the_papers_sequence_formula():
    torch.manual_seed(0)
    now = torch.randn(5, dtype=torch.float64, requires_grad=True)
    old = torch.randn(5, dtype=torch.float64)
    episodes = torch.tensor([0, 0, 0, 1, 1])
    advantage = torch.tensor([1.5, -0.5]).double()
    length = torch.tensor([3.0, 2.0]).double()
    paper = torch.zeros((), dtype=torch.float64)
    for i, rows in enumerate((slice(0, 3), slice(3, 5))):
        s = (now[rows] - old[rows]).mean().exp()  # eq. 7
        # eq. 5
        paper = paper - torch.minimum(s * advantage[i], s.clamp(0.5, 3.0) * advantage[i]) / 2
    out = loss_of(
        "gspo",
        now,
        old,
        advantage[episodes],
        episodes,
        denominator=2.0,
        weights=1 / length[episodes],
        clip_low=0.5,
        clip_high=2.0,
    )
    assert out.loss.item() == pytest.approx(paper.item(), abs=1e-12)
    assert gradient(out, now) == pytest.approx(
        torch.autograd.grad(paper, now)[0].tolist(), abs=1e-12
    )


# --- CISPO ---


def test_cispo_bounds_the_weight_and_keeps_the_gradient():
    # ratios 9, 0.5, 1
    now = logs(0.9, 0.1, 0.5, grad=True)
    old = logs(0.1, 0.2, 0.5)
    out = loss_of(
        "cispo",
        now,
        old,
        torch.tensor([1.0, 1.0, -2.0]),
        denominator=2.0,
        clip_low=1.0,
        clip_high=4.0,
    )
    # weights 5, 0.5, 1: no token is dropped
    assert gradient(out, now) == pytest.approx([-5 / 2, -0.5 / 2, 2 / 2])
    assert out.loss.item() == pytest.approx(
        (-5 * math.log(0.9) - 0.5 * math.log(0.1) + 2 * math.log(0.5)) / 2
    )
    assert (out.sums["clip_ratio/high_mean"], out.sums["clip_ratio/low_mean"]) == (1, 0)


# --- REINFORCE ---


def test_reinforce_pulls_by_the_advantage_however_far_the_policy_has_moved():
    now = logs(0.9, 0.1, grad=True)
    old = logs(0.1, 0.9)
    out = loss_of(
        "reinforce",
        now,
        old,
        torch.tensor([2.0, -1.0]),
        denominator=4.0,
        weights=torch.tensor([1.0, 0.5]),
    )
    assert gradient(out, now) == pytest.approx([-0.5, 0.125])
    assert out.loss.item() == pytest.approx((-2 * math.log(0.9) + 0.5 * math.log(0.1)) / 4)


# --- KL ---


@pytest.mark.parametrize(
    ("name", "by_hand"),
    [("k1", math.log(2)), ("k2", math.log(2) ** 2 / 2), ("k3", 0.5 - 1 + math.log(2))],
)
def test_the_estimators_of_one_token_by_hand(name, by_hand):
    assert ESTIMATORS[name](logs(0.5), logs(0.25)).item() == pytest.approx(by_hand)


def expected_gradient(name, place):
    """Return the estimator's expected gradient over the five tokens, with respect to the logits."""
    logits = POLICY.log().requires_grad_()
    logprobs = logits.log_softmax(-1)
    estimate = ESTIMATORS[name](logprobs, REFERENCE.log())
    # The loss differentiates the estimate itself. The reward multiplies the score function by it.
    per_token = estimate if place == "loss" else estimate.detach() * logprobs
    return torch.autograd.grad((POLICY * per_token).sum(), logits)[0]


def kl_gradient(*, reverse=False):
    logits = POLICY.log().requires_grad_()
    ours = logits.softmax(-1)
    other = REFERENCE
    kl = (other * (other / ours).log()).sum() if reverse else (ours * (ours / other).log()).sum()
    return torch.autograd.grad(kl, logits)[0]


@pytest.mark.parametrize(("name", "place"), [("k2", "loss"), ("k1", "reward")])
def test_k2_in_the_loss_and_k1_in_the_reward_have_the_gradient_of_the_exact_kl(name, place):
    assert torch.allclose(expected_gradient(name, place), kl_gradient(), atol=1e-12)


def test_k3_in_the_loss_has_the_gradient_of_the_kl_in_the_other_direction():
    assert torch.allclose(expected_gradient("k3", "loss"), kl_gradient(reverse=True), atol=1e-12)
    assert not torch.allclose(expected_gradient("k3", "loss"), kl_gradient(), atol=1e-2)


def test_k1_in_the_loss_pulls_nowhere():
    assert expected_gradient("k1", "loss").abs().max() < 1e-12


@pytest.mark.parametrize("name", ["k2", "k3"])
def test_k2_and_k3_in_the_reward_have_neither_gradient(name):
    found = expected_gradient(name, "reward")
    assert not torch.allclose(found, kl_gradient(), atol=1e-2)
    assert not torch.allclose(found, kl_gradient(reverse=True), atol=1e-2)


def test_kl_in_the_reward_takes_from_each_token_what_follows_in_its_own_episode():
    policy = logs(0.5, 0.5, 0.8)
    reference = logs(0.25, 1.0, 0.2)
    episodes = torch.tensor([0, 0, 1])
    ln2 = math.log(2)  # k1: ln 2, -ln 2, 2 ln 2
    found = with_kl_in_reward(torch.ones(3).double(), policy, reference, episodes, kl_coef=0.5)
    assert found.tolist() == pytest.approx([1 - 0.5 * 0.0, 1 + 0.5 * ln2, 1 - 0.5 * 2 * ln2])


# --- importance weights ---

# ratios 3, 0.5 | 1.5
SCORED = logs(0.6, 0.1, 0.9)
SAMPLED = logs(0.2, 0.2, 0.6)
EPISODES = torch.tensor([3, 3, 5])


@pytest.mark.parametrize(
    ("mode", "level", "weights"),
    [
        ("truncate", "token", [2.0, 0.5, 1.5]),
        ("mask", "token", [0.0, 0.0, 1.5]),  # 3 is beyond the cap, 0.5 below the floor
        ("truncate", "sequence", [1.5, 1.5, 1.5]),
        ("mask", "sequence", [1.5, 1.5, 1.5]),
    ],
)
def test_importance_weights_by_hand(mode, level, weights):
    found = importance_weights(
        SCORED, SAMPLED, EPISODES, mode=mode, level=level, cap=2.0, floor=0.6
    )
    assert found.tolist() == pytest.approx(weights)


def test_a_sequence_beyond_the_cap_is_bounded_or_left_out_as_a_whole():
    found = [
        importance_weights(SCORED, SAMPLED, EPISODES, mode=m, level="sequence", cap=1.2).tolist()
        for m in ("truncate", "mask")
    ]
    assert found == [pytest.approx([1.2] * 3), [0.0] * 3]


def test_no_gradient_flows_through_an_importance_weight():
    assert not importance_weights(
        logs(0.5, grad=True), logs(0.4), torch.tensor([0]), mode="truncate"
    ).requires_grad
