"""Supervised loss for the warm start: negative log likelihood of demonstrated tokens."""

from __future__ import annotations

from torch import Tensor

from envgym_trainer.algorithms.losses import LossOutput


def sft_loss(logprobs: Tensor, *, denominator: float, weights: Tensor | None = None) -> LossOutput:
    """Return -sum(weight * logprob) / denominator.

    Args:
        logprobs: Logprobs of the demonstrated tokens under the current policy, shape (N,), with
            gradient.
        denominator: Denominator of the whole optimizer step, usually the sum of its weights. Never
            this micro-batch's count.
        weights: Factor of each token, shape (N,); 1 by default.

    Returns:
        LossOutput with the sum `nll` (unweighted, in nats).
    """
    weighted = logprobs if weights is None else logprobs * weights
    return LossOutput(-weighted.sum() / denominator, {"nll": -logprobs.detach().sum()})
