"""Samples to one prefix tree: what episodes share is read by the model once.

All episodes of a step share a system prompt, a group shares its task, and siblings often sample the same first tokens. The
tree is written depth first into a single row; a token sees its ancestors and itself, so every hidden state, and with it
every gradient, equals that of the flat layout (`batch.py`).

Two facts keep this short. Sorting the samples by their ids puts siblings next to each other, and what a sample shares with
*any* earlier one it shares with the one just before it. And in depth-first order the descendants of a token lie directly
behind it, so "is an ancestor of" is an interval test on `subtree_end` (`tree_attention.py` computes with it).

Left out: recurrent layers, and anything else whose next state depends on more than the ancestors.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch

from envgym_trainer.batch import Batch, Sample, entries


def tree_batch(samples: Sequence[Sample]) -> Batch:
    """One row that holds each distinct prefix of the samples once; each sample has at least one sampled token."""
    inputs = [sample.token_ids[: sample.input_length] for sample in samples]
    order = sorted(range(len(samples)), key=lambda index: inputs[index])
    paths: list[list[int]] = [
        [] for _ in samples
    ]  # where the t-th input token of each sample lies in the row
    token_ids: list[int] = []
    depths: list[int] = []
    subtree_end: list[int] = []
    path: list[int] = []
    previous: tuple[int, ...] = ()
    for index in order:
        shared = common_prefix(previous, inputs[index])
        _close(path[shared:], subtree_end, end=len(token_ids))
        fresh = range(len(token_ids), len(token_ids) + len(inputs[index]) - shared)
        token_ids += inputs[index][shared:]
        depths += range(shared, len(inputs[index]))
        subtree_end += [0] * len(fresh)
        path = path[:shared] + list(fresh)
        paths[index], previous = path, inputs[index]
    _close(path, subtree_end, end=len(token_ids))
    return Batch(
        input_ids=torch.tensor([token_ids]),
        position_ids=torch.tensor([depths]),
        attention_mask=None,
        subtree_end=torch.tensor(subtree_end),
        num_tokens=len(token_ids),
        num_flat_tokens=sum(map(len, inputs)),
        **entries(samples, [[(0, position) for position in path] for path in paths]),
    )


def split_samples(samples: Sequence[Sample], *, max_tokens: int) -> list[list[int]]:
    """Cuts a step into micro-batches of at most `max_tokens` tree tokens, so that as few prefixes as possible are read twice.

    Since every cut costs the prefix that the samples on its two sides share, the cheapest cut falls between groups.
    Args:
        samples: each with at least one sampled token.
        max_tokens: budget of one tree; a single longer sample still gets a micro-batch of its own.
    Returns: indices into `samples`, one list a micro-batch.
    """
    inputs = [sample.token_ids[: sample.input_length] for sample in samples]
    order = sorted(range(len(samples)), key=lambda index: inputs[index])
    lengths = [len(inputs[index]) for index in order]
    shared = [common_prefix(inputs[a], inputs[b]) for a, b in pairwise(order)]
    # best[j] = (tokens, start): cheapest way to cut the first j samples, and where its last micro-batch begins.
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
    """Number of leading ids that two sequences share."""
    for count, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return count
    return min(len(left), len(right))


def _close(positions: Sequence[int], subtree_end: list[int], *, end: int) -> None:
    """Notes that nothing after `end` descends from these tokens."""
    for position in positions:
        subtree_end[position] = end
