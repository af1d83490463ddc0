"""Entropy bonus, added to a policy loss."""

from __future__ import annotations

from torch import Tensor


def entropy_bonus(
    entropy: Tensor, *, coef: float, denominator: float, weights: Tensor | None = None
) -> Tensor:
    """Return -coef * sum(weight * entropy) / denominator.

    Args:
        entropy: Policy entropy at each sampled token in nats, shape (N,), with gradient.
        coef: Weight of the bonus. 0 means no bonus.
        denominator: Denominator of the loss, for the whole optimizer step.
        weights: Factor of each token, shape (N,); 1 by default.

    Returns:
        Scalar with gradient. The values of all micro-batches add up.

    References:
        Williams and Peng 1991, eq. 5. A3C, arXiv 1602.01783, section 4. As there, the gradient
        ignores the policy's effect on which states are visited.
    """
    weighted = entropy if weights is None else entropy * weights
    return -coef * weighted.sum() / denominator
