"""The trainer's first scoring of a step's samples: what the policy says before any update, in the trainer's own numerics."""

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
    """The samples with `scored_logprobs`; those that have them, or sampled nothing, are returned as they are."""
    learner.model.eval()  # LoRA dropout would be scored as a mismatch
    out = list(samples)
    open_ones = [
        index
        for index, sample in enumerate(samples)
        if sample.num_actions and sample.scored_logprobs is None
    ]
    for indices, batch in _batches(learner, [samples[index] for index in open_ones]):
        batch = batch.to(learner.head_weight.device)
        logprobs = iter(learner.score(batch)[0][batch.entry_nodes].tolist())
        for index in indices:
            sample = samples[open_ones[index]]
            scored = tuple(next(logprobs) if sampled else 0.0 for sampled in sample.loss_mask)
            out[open_ones[index]] = dataclasses.replace(sample, scored_logprobs=scored)
    return out


def _batches(learner: Learner, samples: Sequence[Sample]) -> Iterator[tuple[list[int], Batch]]:
    """Indices of samples and their batch, whose entries are in that order."""
    if learner.layout == "flat":
        yield from (([index], flat_batch([sample])) for index, sample in enumerate(samples))
    elif samples:
        for piece in split_samples(samples, max_tokens=learner.max_tokens):
            yield piece, tree_batch([samples[index] for index in piece])
