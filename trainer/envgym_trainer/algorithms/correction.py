"""Importance weights for off-policy samples: another inference engine, or an earlier adapter.

The loss compares the current policy with the trainer's first logprobs of the samples. This factor
corrects for the difference between those and the sampler's. It has no gradient.
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
    """Return min(w, cap) for "truncate", or w if floor <= w <= cap and 0 otherwise for "mask".

    w is the trainer's probability divided by the sampler's.

    Args:
        scored: Logprobs of the trainer, shape (N,).
        sampled: Logprobs of the sampler, shape (N,).
        samples: Episode of each token, shape (N,), int64. For level "sequence" all tokens of an
            episode must be present.
        mode: "truncate" or "mask".
        level: "token" uses each token's w. "sequence" uses the product over the episode's sampled
            tokens. Its variance grows with the episode's length, so a mask drops long episodes
            first; see the metric `correction/changed`.
        cap: Upper bound of w.
        floor: Lower bound of w for "mask".

    Returns:
        Weights, shape (N,), without gradient.

    References:
        Truncated, token level: https://fengyao.notion.site/off-policy-rl. Truncated importance
            sampling: Ionides 2008, https://doi.org/10.1198/106186008X320456. Masked on both sides:
            IcePop, https://ringtech.notion.site/icepop. Sequence level: "When Speed Kills
            Stability: Demystifying RL Collapse from the Inference-Training Mismatch" (2025).
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
