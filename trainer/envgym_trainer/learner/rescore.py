"""Compute the trainer's logprobs of a step's samples before the first update."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence

from torch import Tensor

from envgym_trainer.batch import Batch, Sample, flat_batch
from envgym_trainer.learner.micro_batches import Layout
from envgym_trainer.learner.prefix_tree import split_samples, tree_batch


def add_trainer_logprobs(
    samples: Sequence[Sample],
    logprobs: Callable[[Batch], Tensor],
    *,
    layout: Layout,
    max_tokens: int,
) -> list[Sample]:
    """Return the samples with `trainer_logprobs`.

    Samples that have them, or have no sampled token, are unchanged.

    Args:
        samples: Samples of a step.
        logprobs: Function that returns the logprobs of a batch's entries, shape (E,). The model
            must be in evaluation mode.
        layout: Layout of the batches.
        max_tokens: Maximum number of tokens of one batch.
    """
    out = list(samples)
    missing = [
        index
        for index, sample in enumerate(samples)
        if sample.num_actions and sample.trainer_logprobs is None
    ]
    for indices, batch in _batches([samples[index] for index in missing], layout, max_tokens):
        values = iter(logprobs(batch).tolist())
        for index in indices:
            sample = samples[missing[index]]
            row = tuple(next(values) if sampled else 0.0 for sampled in sample.loss_mask)
            out[missing[index]] = dataclasses.replace(sample, trainer_logprobs=row)
    return out


def _batches(
    samples: Sequence[Sample], layout: Layout, max_tokens: int
) -> Iterator[tuple[list[int], Batch]]:
    """Yield batches of samples, with the samples' indices in the order of the batch's entries."""
    if layout == "flat":
        yield from (([index], flat_batch([sample])) for index, sample in enumerate(samples))
    elif samples:
        for piece in split_samples(samples, max_tokens=max_tokens):
            yield piece, tree_batch([samples[index] for index in piece])
