"""The entropy bonus: what a policy earns for staying undecided, added to any loss."""

from __future__ import annotations

from torch import Tensor


def entropy_bonus(
    entropy: Tensor, *, coef: float, denominator: float, weights: Tensor | None = None
) -> Tensor:
    """-coef * sum(weight * entropy) / denominator, to be added to a loss.

    Args:
        entropy: (N,) nats of the policy at each sampled token's place, with gradient.
        coef: nats to reward; 0 is no bonus.
        denominator: that of the loss it is added to, of the whole optimiser step.
        weights: (N,) factor of each token; None is 1.
    Returns: () with gradient; shares of one step add up.
    Source: Williams & Peng 1991, eq. 5; A3C, arXiv 1602.01783, sec. 4. The gradient is that of the entropy at the places that
        were visited; how the policy's choices change which places are visited is left out, as there.
    """
    weighted = entropy if weights is None else entropy * weights
    return -coef * weighted.sum() / denominator
