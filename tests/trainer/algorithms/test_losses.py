"""The losses on one or two tokens. The expected numbers are worked out by hand."""

import math

import pytest
import torch

from envgym_trainer.algorithms.kl import k3_kl
from envgym_trainer.algorithms.losses.sft import sft_loss
from tests.fakes.losses import loss_of


def one_token(*, p, old_p, advantage, ref_p=None, **options):
    """Return the loss, the gradient of the logprob and the output for a single token."""
    logprobs = torch.tensor([math.log(p)], dtype=torch.float64, requires_grad=True)
    old = torch.tensor([math.log(old_p)]).double()
    reference = None if ref_p is None else torch.tensor([math.log(ref_p)]).double()
    options = {"denominator": 1.0, **options}
    out = loss_of(
        "grpo", logprobs, old, torch.tensor([advantage]).double(), ref_logprobs=reference, **options
    )
    out.loss.backward()
    return out.loss.item(), logprobs.grad.item(), out


def test_on_policy_the_gradient_is_minus_the_advantage():
    loss, gradient, _ = one_token(p=0.25, old_p=0.25, advantage=1.5)
    # ratio 1, d ratio / d logprob = ratio
    assert (loss, gradient) == (
        pytest.approx(-1.5),
        pytest.approx(-1.5),
    )


def test_a_token_past_the_clip_earns_no_more_and_pulls_no_gradient():
    # ratio 2.0, clipped to 1.2
    loss, gradient, out = one_token(p=0.50, old_p=0.25, advantage=1.0, clip_high=0.2)
    assert (loss, gradient) == (pytest.approx(-1.2), 0.0)
    assert out.sums["clip_ratio/high_mean"] == 1
    assert out.sums["clip_ratio/low_mean"] == 0


def test_a_bad_token_already_made_rare_is_left_alone():
    # ratio 0.5, clipped to 0.8
    loss, gradient, out = one_token(p=0.125, old_p=0.25, advantage=-1.0, clip_low=0.2)
    assert (loss, gradient) == (pytest.approx(0.8), 0.0)
    assert out.sums["clip_ratio/low_mean"] == 1
    assert out.sums["clip_ratio/region_mean"] == 1


def test_a_bad_token_that_became_likely_is_not_protected_by_the_clip():
    # min(2 * -1, 1.2 * -1) = -2
    loss, gradient, out = one_token(p=0.50, old_p=0.25, advantage=-1.0)
    assert (loss, gradient) == (pytest.approx(2.0), pytest.approx(2.0))
    assert out.sums["clip_ratio/region_mean"] == 0


def test_a_good_token_that_became_rare_is_not_protected_either():
    loss, gradient, _ = one_token(p=0.125, old_p=0.25, advantage=1.0)  # min(0.5, 0.8) = 0.5
    assert (loss, gradient) == (pytest.approx(-0.5), pytest.approx(-0.5))


def test_clip_higher_gives_good_tokens_more_room():
    # ratio 1.3
    loss, gradient, _ = one_token(p=0.325, old_p=0.25, advantage=1.0, clip_low=0.2, clip_high=0.4)
    assert (loss, gradient) == (pytest.approx(-1.3), pytest.approx(-1.3))


def test_k3_by_hand():
    # p = 0.5, reference 0.25: 0.25/0.5 - 1 - log(0.5) = -0.5 + 0.6931
    assert k3_kl(torch.tensor([0.5]).log(), torch.tensor([0.25]).log()).item() == pytest.approx(
        0.1931472
    )


def test_k3_is_the_kl_on_average_over_a_five_token_vocabulary():
    policy = torch.tensor([0.5, 0.2, 0.15, 0.1, 0.05])
    reference = torch.tensor([0.1, 0.3, 0.2, 0.2, 0.2])
    exact = (policy * (policy / reference).log()).sum()
    assert (policy * k3_kl(policy.log(), reference.log())).sum().item() == pytest.approx(
        exact.item()
    )


def test_the_kl_penalty_adds_its_coefficient_times_k3():
    loss, gradient, out = one_token(p=0.5, old_p=0.5, advantage=1.0, ref_p=0.25, kl_coef=0.1)
    assert loss == pytest.approx(-1.0 + 0.01931472)
    assert gradient == pytest.approx(-1.0 + 0.1 * 0.5)  # d k3 / d logprob = 1 - ref/p = 0.5
    assert out.sums["kl/current_base"].item() == pytest.approx(0.1931472)


def test_a_kl_penalty_without_a_reference_is_refused():
    with pytest.raises(ValueError, match=r"kl_coef is 0\.1, so ref_logprobs are needed"):
        one_token(p=0.5, old_p=0.5, advantage=1.0, kl_coef=0.1)


def test_every_token_weighs_the_same_over_the_denominator_given():
    logprobs = torch.zeros(3, requires_grad=True)
    out = loss_of(
        "grpo", logprobs, torch.zeros(3), torch.tensor([1.0, 1.0, -2.0]), denominator=10.0
    )
    out.loss.backward()
    assert out.loss.item() == pytest.approx(0.0)
    assert logprobs.grad.tolist() == pytest.approx([-0.1, -0.1, 0.2])


def test_weights_scale_single_tokens():
    logprobs = torch.zeros(2, requires_grad=True)
    loss_of(
        "grpo",
        logprobs,
        torch.zeros(2),
        torch.ones(2),
        denominator=1.0,
        weights=torch.tensor([1.0, 0.25]),
    ).loss.backward()
    assert logprobs.grad.tolist() == pytest.approx([-1.0, -0.25])


def test_the_parts_of_a_step_add_up_to_the_whole():
    logprobs, old, advantages = torch.randn(3, 8, dtype=torch.float64)
    whole = loss_of("grpo", logprobs, old, advantages, denominator=8)
    parts = [
        loss_of("grpo", logprobs[s], old[s], advantages[s], denominator=8)
        for s in (slice(0, 3), slice(3, 8))
    ]
    assert sum(part.loss for part in parts).item() == pytest.approx(whole.loss.item(), abs=1e-12)
    for name, value in whole.sums.items():
        assert sum(part.sums[name] for part in parts).item() == pytest.approx(
            value.item(), abs=1e-12
        )
    for name, value in whole.maxima.items():
        assert max(part.maxima[name] for part in parts) == value


def test_the_drift_since_sampling_is_told():
    _, _, out = one_token(p=0.5, old_p=0.25, advantage=1.0)
    assert out.maxima["sampling/sampling_logp_difference/max"].item() == pytest.approx(math.log(2))
    assert out.maxima["sampling/importance_sampling_ratio/max"].item() == pytest.approx(2.0)
    assert out.sums["kl/old_current"].item() == pytest.approx(2 - 1 - math.log(2))


def test_sft_is_the_weighted_negative_log_likelihood_over_the_denominator():
    logprobs = torch.tensor([-1.0, -3.0], requires_grad=True)
    out = sft_loss(logprobs, denominator=4.0, weights=torch.tensor([1.0, 0.5]))
    out.loss.backward()
    assert out.loss.item() == pytest.approx(2.5 / 4)
    assert logprobs.grad.tolist() == pytest.approx([-0.25, -0.125])
    assert out.sums["nll"].item() == 4.0
