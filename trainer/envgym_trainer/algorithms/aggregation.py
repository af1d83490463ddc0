"""Aggregation of token losses: weights of the samples and one denominator for the whole step.

Both are computed before the first forward pass over all samples, with those without an advantage.
Therefore micro-batches and dropped samples do not change the gradient.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

from envgym_trainer.batch import Sample

Aggregation = Literal["token", "sequence", "constant"]


def weigh_samples(
    samples: Sequence[Sample], how: Aggregation = "token", *, constant_length: int = 1
) -> tuple[list[Sample], float]:
    """Return the samples with their token weights, and the denominator of the step.

    Args:
        samples: Samples of this process.
        how: "token" keeps weight w and divides by the sum of w over all sampled tokens (DAPO, arXiv
            2503.14476, eq. 8). "sequence" uses w / |y| and divides by the sum of w over episodes
            (GRPO, arXiv 2402.03300, eq. 3). "constant" keeps w and divides by that sum times
            `constant_length` (Dr. GRPO, arXiv 2503.20783; RLOO's sum over tokens if it is 1).
        constant_length: Length used by "constant", in tokens.

    Returns:
        The samples in the same order, and this process's part of the denominator; 0 without sampled
        tokens.
    """
    samples = list(samples)
    episodes = sum(sample.weight for sample in samples if sample.num_actions)
    if how == "token":
        return samples, sum(sample.num_actions * sample.weight for sample in samples)
    if how == "constant":
        return samples, episodes * constant_length
    return [
        dataclasses.replace(s, weight=s.weight / max(s.num_actions, 1)) for s in samples
    ], episodes
