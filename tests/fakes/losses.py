"""Call a registered loss on plain tensors, as the objective does."""

import torch

from envgym_trainer.algorithms.losses import LossInputs
from envgym_trainer.algorithms.objective import total_loss
from envgym_trainer.algorithms.registry import find_loss


def loss_of(
    name,
    logprobs,
    old_logprobs,
    advantages,
    samples=None,
    *,
    denominator=1.0,
    weights=None,
    ref_logprobs=None,
    kl_coef=0.0,
    kl="k3",
    **options,
):
    """Return the `LossOutput` of a loss.

    By default the weights are 1 and all tokens belong to one sample.
    """
    inputs = LossInputs(
        logprobs=logprobs,
        old_logprobs=old_logprobs,
        advantages=advantages,
        weights=torch.ones_like(logprobs) if weights is None else weights,
        samples=torch.zeros(len(logprobs), dtype=torch.int64) if samples is None else samples,
        denominator=denominator,
        ref_logprobs=ref_logprobs,
    )
    tokens = find_loss(name)(inputs, **options)
    return total_loss(inputs, tokens, kl_coef=kl_coef, estimator=kl)
