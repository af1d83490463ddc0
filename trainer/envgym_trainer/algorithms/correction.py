"""Importance weights for samples that another policy drew: the sampler's numerics, or an earlier adapter.

The loss compares the current policy with the trainer's own first scoring of the samples; this factor carries what lies
between that scoring and the sampler. It is a constant of the loss: no gradient flows through it.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Mode = Literal["truncate", "mask"]
Level = Literal["token", "sequence"]


def importance_weights(
    scored: Tensor,
    sampled: Tensor,
    samples: Tensor,
    *,
    mode: Mode,
    level: Level = "token",
    cap: float = 2.0,
    floor: float = 0.0,
) -> Tensor:
    """min(w, cap), or w where floor <= w <= cap and 0 elsewhere, with w = scored probability / sampled probability.

    Args:
        scored: (N,) logprobs by the trainer. sampled: (N,) logprobs by the sampler.
        samples: (N,) int64, the episode of each token; for level "sequence" an episode's tokens must all be here.
        level: "token": each token's own w; "sequence": the product over the episode's sampled tokens, for each of them. That
            product spreads with the episode's length, so a mask drops long episodes first: watch `correction/changed`.
        cap, floor: bounds of w.
    Returns: (N,) without gradient.
    Source: truncated, token level: https://fengyao.notion.site/off-policy-rl; truncated importance sampling: Ionides 2008,
        https://doi.org/10.1198/106186008X320456; masked, two-sided: IcePop, https://ringtech.notion.site/icepop;
        sequence level: "When Speed Kills Stability: Demystifying RL Collapse from the Inference-Training Mismatch" (2025).
    """
    log_ratio = (scored - sampled).detach()
    if level == "sequence":
        seen = samples.unique(return_inverse=True)[1]
        size = int(seen.max()) + 1 if len(seen) else 0
        log_ratio = torch.zeros(size, dtype=log_ratio.dtype, device=log_ratio.device).index_add(
            0, seen, log_ratio
        )[seen]
    ratio = log_ratio.exp()
    if mode == "truncate":
        return ratio.clamp(max=cap)
    return torch.where((ratio >= floor) & (ratio <= cap), ratio, 0.0)
