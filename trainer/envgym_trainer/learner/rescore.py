"""Compute the trainer's logprobs of a step's samples before the first update."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from envgym_trainer.batch import Batch, Sample, flat_batch
from envgym_trainer.learner.prefix_tree import split_samples, tree_batch

if TYPE_CHECKING:
    from envgym_trainer.learner.learner import Learner


@torch.no_grad()
def with_scores(learner: Learner, samples: Sequence[Sample]) -> list[Sample]:
    """Return the samples with `trainer_logprobs`.

    Samples that have them, or have no sampled token, are unchanged.
    """
    # LoRA dropout would count as mismatch.
    learner.model.eval()
    out = list(samples)
    open_ones = [
        index
        for index, sample in enumerate(samples)
        if sample.num_actions and sample.trainer_logprobs is None
    ]
    for indices, batch in _batches(learner, [samples[index] for index in open_ones]):
        batch = batch.to(learner.head_weight.device)
        logprobs = iter(learner.score(batch)[0][batch.action_nodes].tolist())
        for index in indices:
            sample = samples[open_ones[index]]
            scored = tuple(next(logprobs) if sampled else 0.0 for sampled in sample.loss_mask)
            out[open_ones[index]] = dataclasses.replace(sample, trainer_logprobs=scored)
    return out


def _batches(learner: Learner, samples: Sequence[Sample]) -> Iterator[tuple[list[int], Batch]]:
    """Yield batches of samples, with the samples' indices in the order of the batch's entries."""
    if learner.layout == "flat":
        yield from (([index], flat_batch([sample])) for index, sample in enumerate(samples))
    elif samples:
        for piece in split_samples(samples, max_tokens=learner.max_tokens):
            yield piece, tree_batch([samples[index] for index in piece])
