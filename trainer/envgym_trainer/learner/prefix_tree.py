"""Build a prefix tree of samples, so that the model reads a shared prefix only once.

The tree is written depth first into one row. A token sees its ancestors and itself, so hidden
states and gradients match the flat layout (`batch.py`). After sorting by token ids, a sample shares
the longest prefix with its predecessor. In depth-first order the descendants of a token directly
follow it, so the ancestor test is an interval test on `subtree_end` (see `tree_attention.py`).
Not supported: layers with a state that depends on more than the ancestors, such as recurrent ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch

from envgym_trainer.batch import Batch, Sample, entries


def tree_batch(samples: Sequence[Sample]) -> Batch:
    """Return one row with each distinct prefix once.

    Each sample needs at least one sampled token.
    """
    streams = [(index, places) for index, sample in enumerate(samples) for places in sample.inputs]
    inputs = [samples[index].token_ids[places.start : places.stop] for index, places in streams]
    order = sorted(range(len(streams)), key=lambda stream: inputs[stream])
    # paths[n][t] is the place in the row of input token t of sample n.
    paths: list[dict[int, tuple[int, int]]] = [{} for _ in samples]
    token_ids: list[int] = []
    depths: list[int] = []
    subtree_end: list[int] = []
    path: list[int] = []
    previous: tuple[int, ...] = ()
    for stream in order:
        shared = common_prefix(previous, inputs[stream])
        _close(path[shared:], subtree_end, end=len(token_ids))
        fresh = range(len(token_ids), len(token_ids) + len(inputs[stream]) - shared)
        token_ids += inputs[stream][shared:]
        depths += range(shared, len(inputs[stream]))
        subtree_end += [0] * len(fresh)
        path = path[:shared] + list(fresh)
        previous = inputs[stream]
        index, places = streams[stream]
        paths[index] |= {place: (0, row) for place, row in zip(places, path, strict=True)}
    _close(path, subtree_end, end=len(token_ids))
    return Batch(
        input_ids=torch.tensor([token_ids]),
        position_ids=torch.tensor([depths]),
        attention_mask=None,
        subtree_end=torch.tensor(subtree_end),
        num_tokens=len(token_ids),
        num_flat_tokens=sum(map(len, inputs)),
        **entries(samples, paths),
    )


def split_samples(samples: Sequence[Sample], *, max_tokens: int) -> list[list[int]]:
    """Split a step into micro-batches, so that few prefixes are read twice.

    Each cut costs the prefix that the samples on both sides share, so the cheapest cuts lie between
    groups.

    Args:
        samples: Samples with at least one sampled token each.
        max_tokens: Maximum number of tree tokens of a micro-batch. A longer sample gets a
            micro-batch alone.

    Returns:
        Indices into `samples`, one list per micro-batch.
    """
    inputs = [sample.token_ids[: sample.input_length] for sample in samples]
    order = sorted(range(len(samples)), key=lambda index: inputs[index])
    lengths = [len(inputs[index]) for index in order]
    shared = [common_prefix(inputs[a], inputs[b]) for a, b in pairwise(order)]
    # best[j] = (tokens, start): lowest cost of the first j samples, and the first sample of the
    # last micro-batch.
    best: list[tuple[int, int]] = [(0, 0)]
    for stop in range(1, len(order) + 1):
        size = 0
        choices = []
        for start in range(stop - 1, -1, -1):
            size += lengths[start] - (shared[start] if start < stop - 1 else 0)
            if size > max_tokens and choices:
                break
            choices.append((best[start][0] + size, start))
        best.append(min(choices))
    pieces = []
    stop = len(order)
    while stop:
        start = best[stop][1]
        pieces.append(order[start:stop])
        stop = start
    return pieces[::-1]


def common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    """Return the number of leading ids that two sequences share."""
    for count, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return count
    return min(len(left), len(right))


def _close(positions: Sequence[int], subtree_end: list[int], *, end: int) -> None:
    """Set the end of these tokens' subtrees."""
    for position in positions:
        subtree_end[position] = end
