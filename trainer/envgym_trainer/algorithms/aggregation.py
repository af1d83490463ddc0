"""How the tokens of a step add up to one loss: as weights of the samples, and one denominator for the whole step.

Both are known before the first forward pass and belong to all samples of the step, those without a lesson included. So the
gradient depends neither on how the step is cut into micro-batches nor on which idle samples are left out of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

from envgym_trainer.batch import Sample

Aggregation = Literal["token", "sequence", "constant"]


def aggregated(
    samples: Sequence[Sample], how: Aggregation = "token", *, constant_length: int = 1
) -> tuple[list[Sample], float]:
    """The samples with the weight of each of their tokens, and what the step's sum is divided by.

    Args:
        how: "token": weight w, divided by the sum of w over all sampled tokens (DAPO, arXiv 2503.14476, eq. 8);
            "sequence": w / |y|, divided by the sum of w over episodes (GRPO, arXiv 2402.03300, eq. 3);
            "constant": w, divided by that sum times `constant_length` (Dr. GRPO, arXiv 2503.20783; with 1, RLOO's sum of tokens).
    Returns: the samples in their order; what this share adds to the denominator, 0 where nothing was sampled.
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
