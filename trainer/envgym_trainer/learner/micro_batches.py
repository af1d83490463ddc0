"""Split the samples of an update into forward passes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from envgym_trainer.batch import Batch, Sample, flat_batch
from envgym_trainer.learner.prefix_tree import split_samples, tree_batch

Layout = Literal["tree", "flat"]
"""`tree` shares prefixes. `flat` is the padded reference with the same gradients."""


def micro_batches(samples: Sequence[Sample], *, layout: Layout, max_tokens: int) -> Iterator[Batch]:
    """Yield batches that hold all samples.

    Args:
        samples: Samples, each with at least one sampled token. May be empty.
        layout: Layout of the batches.
        max_tokens: Maximum number of tokens of one batch. A larger sample gets a batch of its own.
    """
    if layout == "flat":
        yield from _flat_batches(samples, max_tokens)
    elif samples:
        for piece in split_samples(samples, max_tokens=max_tokens):
            yield tree_batch([samples[index] for index in piece])


def _flat_batches(samples: Sequence[Sample], max_tokens: int) -> Iterator[Batch]:
    rows = sorted(samples, key=lambda sample: sample.input_length)
    while rows:
        fits = [n for n in range(1, len(rows) + 1) if n * rows[n - 1].input_length <= max_tokens]
        count = max(fits, default=1)
        yield flat_batch(rows[:count])
        rows = rows[count:]
