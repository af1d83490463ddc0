"""REINFORCE loss: policy gradient without ratio and clip, for on-policy samples."""

from __future__ import annotations

from envgym_trainer.algorithms.losses import LossInputs, TokenLosses, loss


@loss(uses_ratio=False)
def reinforce(inputs: LossInputs) -> TokenLosses:
    """Return -A * logprob of each token.

    Off-policy samples need importance weights (`correction.py`).

    References:
        Williams 1992, https://doi.org/10.1007/BF00992696. RLOO, arXiv 2402.14740, section 2
        (weights 1, divided by episodes).
    """
    return TokenLosses(-inputs.advantages * inputs.logprobs)
