"""Samples to tensors: the record that every layout fills, and the flat layout, one padded row a sample.

Flat is the reference: slow, obvious, and what the prefix tree of `tree.py` must equal to the last digit. Masks are made
from lengths, never from ids, so a pad id that is also the end-of-turn id costs nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from envgym.policies import TokenTrace


@dataclass(frozen=True, slots=True)
class Sample:
    """One episode as the learner sees it."""

    token_ids: tuple[int, ...]
    """(T,) ids exactly as the model saw or sampled them."""
    loss_mask: tuple[bool, ...]
    """(T,) True where the policy sampled the token; only these are trained."""
    old_logprobs: tuple[float, ...]
    """(T,) natural log at the sampling temperature; ignored where `loss_mask` is False and by SFT."""
    advantage: float
    """Of the whole episode; ignored by SFT."""
    weight: float = 1.0
    """Factor of each of its tokens, in the loss and in the denominator."""
    token_advantages: tuple[float, ...] | None = None
    """(T,) where tokens differ (credit for turns), in place of `advantage`; ignored where `loss_mask` is False."""
    scored_logprobs: tuple[float, ...] | None = None
    """(T,) by the trainer before the step's first update; None where nobody asked for a correction (`losses/correction.py`)."""

    def __post_init__(self) -> None:
        lengths = len(self.token_ids), len(self.loss_mask), len(self.old_logprobs)
        if len(set(lengths)) != 1:
            raise ValueError(
                "a sample needs one mask bit and one logprob for every id, got {} ids, {} bits, {} logprobs.".format(
                    *lengths
                )
            )
        for name in ("token_advantages", "scored_logprobs"):
            if (values := getattr(self, name)) is not None and len(values) != lengths[0]:
                raise ValueError(
                    f"a sample of {lengths[0]} ids needs as many {name}, got {len(values)}."
                )
        if self.loss_mask and self.loss_mask[0]:
            raise ValueError(
                "the first token of a sample cannot be trained: nothing precedes it to predict it."
            )

    @classmethod
    def from_trace(
        cls, trace: TokenTrace, *, advantage: float = 0.0, weight: float = 1.0
    ) -> Sample:
        """The sample of an episode's tokens."""
        return cls(trace.token_ids, trace.loss_mask, trace.logprobs, advantage, weight)

    @property
    def num_actions(self) -> int:
        """How many tokens the policy sampled."""
        return sum(self.loss_mask)

    @property
    def has_lesson(self) -> bool:
        """Whether any of its sampled tokens has an advantage other than 0."""
        if self.token_advantages is None:
            return self.advantage != 0
        return any(
            sampled and value != 0
            for sampled, value in zip(self.loss_mask, self.token_advantages, strict=True)
        )

    @property
    def input_length(self) -> int:
        """How many tokens the model must read: all before the last sampled one."""
        return max((t for t, sampled in enumerate(self.loss_mask) if sampled), default=0)


@dataclass(frozen=True, slots=True)
class Batch:
    """What one forward pass needs, whatever the layout: B rows of S tokens, N scored nodes, E entries.

    A *node* is a (hidden state, next id) pair whose logprob is computed. An *entry* is one sampled token of one sample; in
    a tree several entries may share a node.
    """

    input_ids: Tensor
    """(B, S) int64."""
    position_ids: Tensor
    """(B, S) int64, depth in the conversation."""
    attention_mask: Tensor | None
    """(B, S) bool, True for real tokens, causality implied; None in a tree."""
    subtree_end: Tensor | None
    """(S,) int64, in a tree: one past the last descendant of each token, so q sees k exactly where k <= q < subtree_end[k]."""
    score_rows: Tensor
    """(N,) int64 row of the hidden state that predicts."""
    score_positions: Tensor
    """(N,) int64 position of the hidden state that predicts."""
    score_ids: Tensor
    """(N,) int64 id that is predicted."""
    entry_nodes: Tensor
    """(E,) int64 index of the entry's node."""
    entry_samples: Tensor
    """(E,) int64 index of the entry's sample, in the order they were given."""
    old_logprobs: Tensor
    """(E,) float32."""
    advantages: Tensor
    """(E,) float32."""
    weights: Tensor
    """(E,) float32."""
    scored_logprobs: Tensor | None
    """(E,) float32; None unless every sample has them."""
    num_tokens: int
    """Tokens the model reads, padding left out."""
    num_flat_tokens: int
    """Tokens it would read if nothing were shared."""

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return dataclasses.replace(
            self,
            **{
                name: value.to(device)
                for name, value in values.items()
                if isinstance(value, Tensor)
            },
        )


def flat_batch(samples: Sequence[Sample], *, pad_id: int = 0) -> Batch:
    """One right-padded row a sample.

    Args:
        samples: each with at least one sampled token.
        pad_id: any valid id; masked by length, so it never matters which.
    """
    lengths = [sample.input_length for sample in samples]
    width = max(lengths)
    rows = [
        list(sample.token_ids[:length]) + [pad_id] * (width - length)
        for sample, length in zip(samples, lengths, strict=True)
    ]
    positions = torch.arange(width)
    return Batch(
        input_ids=torch.tensor(rows),
        position_ids=positions.expand(len(rows), width),
        attention_mask=positions < torch.tensor(lengths)[:, None],  # (B, S)
        subtree_end=None,
        num_tokens=sum(lengths),
        num_flat_tokens=sum(lengths),
        **entries(
            samples, [[(row, t) for t in range(length)] for row, length in enumerate(lengths)]
        ),
    )


def entries(
    samples: Sequence[Sample], paths: Sequence[Sequence[tuple[int, int]]]
) -> dict[str, Any]:
    """The scored nodes and the entries that use them, as the fields of `Batch` that begin with score_, entry_, old_logprobs.

    Args:
        samples: the episodes.
        paths: for each sample, where its t-th input token lies: (row, position).
    """
    nodes: dict[tuple[int, int, int], int] = {}  # (row, position, next id) -> node
    table: list[tuple[int, int, float, float, float]] = []
    for index, (sample, path) in enumerate(zip(samples, paths, strict=True)):
        for t, sampled in enumerate(sample.loss_mask):
            if sampled:
                node = nodes.setdefault((*path[t - 1], sample.token_ids[t]), len(nodes))
                advantage = (
                    sample.advantage
                    if sample.token_advantages is None
                    else sample.token_advantages[t]
                )
                table.append((node, index, sample.old_logprobs[t], advantage, sample.weight))
    rows, positions, ids = torch.tensor(list(nodes)).T.contiguous()
    entry_nodes, entry_samples, *floats = zip(*table, strict=True)
    old_logprobs, advantages, weights = torch.tensor(floats, dtype=torch.float32)
    return {
        "score_rows": rows,
        "score_positions": positions,
        "score_ids": ids,
        "entry_nodes": torch.tensor(entry_nodes),
        "entry_samples": torch.tensor(entry_samples),
        "old_logprobs": old_logprobs,
        "advantages": advantages,
        "weights": weights,
        "scored_logprobs": _scored(samples),
    }


def _scored(samples: Sequence[Sample]) -> Tensor | None:
    """(E,) in the order of the entries."""
    rows = [sample.scored_logprobs for sample in samples]
    if any(row is None for row in rows):
        return None
    pairs = [
        (value, sampled)
        for row, sample in zip(rows, samples, strict=True)
        for value, sampled in zip(row or (), sample.loss_mask, strict=True)
    ]
    return torch.tensor([value for value, sampled in pairs if sampled], dtype=torch.float32)
