"""Estimators of KL(policy || other) from single tokens sampled by the policy.

With r = other / policy at the sampled token: k1 = -log r, k2 = (log r)^2 / 2, k3 = r - 1 - log r.
The means of k1 and k3 are the KL, the mean of k2 is close to it. The gradients differ (see
`test_policy_losses.py`):

    place     estimator   expected gradient
    loss      k1          0 (the settings refuse it)
    loss      k2          gradient of KL(policy || other)
    loss      k3          gradient of KL(other || policy), although the value is right
    reward    k1          gradient of KL(policy || other)
    reward    k2, k3      neither: the gradient of the sampled token's estimate is missing

Sources: http://joschu.net/blog/kl-approx.html, arXiv 2506.09477, arXiv 2510.01555.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor


def k1_kl(logprobs: Tensor, other_logprobs: Tensor) -> Tensor:
    """Return the k1 estimate per token, shape (N,): unbiased, either sign, high variance."""
    return logprobs - other_logprobs


def k2_kl(logprobs: Tensor, other_logprobs: Tensor) -> Tensor:
    """Return the k2 estimate per token, shape (N,): slightly biased, never negative."""
    return (logprobs - other_logprobs).square() / 2


def k3_kl(logprobs: Tensor, other_logprobs: Tensor) -> Tensor:
    """Return the k3 estimate per token, shape (N,): unbiased, never negative.

    Source: http://joschu.net/blog/kl-approx.html
    """
    log_ratio = other_logprobs - logprobs
    return log_ratio.exp() - 1 - log_ratio


ESTIMATORS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"k1": k1_kl, "k2": k2_kl, "k3": k3_kl}


def with_kl_in_reward(
    advantages: Tensor,
    logprobs: Tensor,
    ref_logprobs: Tensor,
    samples: Tensor,
    *,
    kl_coef: float,
    estimator: str = "k1",
) -> Tensor:
    """Return advantages minus kl_coef times the KL estimate from each token to the episode's end.

    Args:
        advantages: Shape (N,). Tokens of an episode must be adjacent and in order.
        logprobs: Logprobs of the sampling policy, shape (N,).
        ref_logprobs: Logprobs of the reference policy, shape (N,).
        samples: Episode of each token, shape (N,), int64.
        kl_coef: Weight in units of advantage per nat. The penalty is subtracted after
            normalization.
        estimator: k1, k2 or k3.

    Returns:
        Advantages, shape (N,), without gradient.

    References:
        REINFORCE++, arXiv 2501.03262, eq. 8-9 (KL to go, k1).
    """
    penalty = ESTIMATORS[estimator](logprobs, ref_logprobs).detach()
    counts = samples.unique_consecutive(return_counts=True)[1]
    so_far = penalty.double().cumsum(0)
    at_the_end = so_far[counts.cumsum(0) - 1].repeat_interleave(counts)
    return advantages - kl_coef * (at_the_end - so_far + penalty).to(penalty.dtype)
