"""Estimates of KL(policy || other) from single tokens that the policy sampled, and what each is good for.

With r = other / policy at the sampled token: k1 = -log r, k2 = (log r)^2 / 2, k3 = r - 1 - log r. Their means over the policy
are the KL (k1, k3) or nearly so (k2). Their *gradients* are another matter, which `test_kl.py` shows on five tokens:

    place     estimator   expected gradient
    loss      k1          0: it pulls nowhere (refused by the settings)
    loss      k2          that of KL(policy || other)
    loss      k3          that of KL(other || policy): the other direction, though its value is right
    reward    k1          that of KL(policy || other)
    reward    k2, k3      neither: the sampled token's own part of the gradient is missing

Source: http://joschu.net/blog/kl-approx.html; the gradients: arXiv 2506.09477, arXiv 2510.01555. Left out: exact KL over the
whole vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor


def k1_kl(logprobs: Tensor, other_logprobs: Tensor) -> Tensor:
    """Per-token estimate of KL(policy || other), (N,) each: unbiased, of either sign, widely spread."""
    return logprobs - other_logprobs


def k2_kl(logprobs: Tensor, other_logprobs: Tensor) -> Tensor:
    """Per-token estimate of KL(policy || other), (N,) each: biased a little, never negative."""
    return (logprobs - other_logprobs).square() / 2


def k3_kl(logprobs: Tensor, other_logprobs: Tensor) -> Tensor:
    """Per-token estimate of KL(policy || other) from tokens that the policy sampled; both (N,), returns (N,).

    k3 estimator: unbiased and never negative. http://joschu.net/blog/kl-approx.html
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
    """Each token's advantage less kl_coef times the KL estimated from it to the end of its episode.

    Args:
        advantages, logprobs, ref_logprobs: (N,), the tokens of an episode next to each other and in order; logprobs are those
            of the policy that sampled.
        samples: (N,) int64, the episode of each token.
        kl_coef: in units of advantage for each nat: the penalty comes after the rewards were normalised.
    Returns: (N,) without gradient.
    Source: REINFORCE++, arXiv 2501.03262, eq. 8-9 (KL to go, k1).
    """
    penalty = ESTIMATORS[estimator](logprobs, ref_logprobs).detach()
    counts = samples.unique_consecutive(return_counts=True)[1]
    so_far = penalty.double().cumsum(0)
    at_the_end = so_far[counts.cumsum(0) - 1].repeat_interleave(counts)
    return advantages - kl_coef * (at_the_end - so_far + penalty).to(penalty.dtype)
