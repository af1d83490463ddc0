"""The negative log likelihood of demonstrated tokens: supervised fine-tuning, for the warm start."""

from __future__ import annotations

from torch import Tensor

from envgym_trainer.algorithms.losses import LossOutput


def sft_loss(logprobs: Tensor, *, denominator: float, weights: Tensor | None = None) -> LossOutput:
    """-sum(weight * logprob) / denominator.

    Args:
        logprobs: (N,) of the demonstrated tokens under the current policy, with gradient.
        denominator: what the whole optimiser step divides by, usually the sum of all its weights; never this
            micro-batch's own count.
        weights: (N,) factor of each token; None is 1.
    Returns: LossOutput with the sum `nll` (unweighted, in nats).
    """
    weighted = logprobs if weights is None else logprobs * weights
    return LossOutput(-weighted.sum() / denominator, {"nll": -logprobs.detach().sum()})
