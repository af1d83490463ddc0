"""Convert samples to tensors: the `Batch` record of all layouts, and the flat layout.

The flat layout has one padded row for each sample. It is the reference that the prefix tree of
`tree.py` must equal exactly. Masks are built from lengths, not from ids, because the pad id may
also be the end-of-turn id.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from envgym.policies import TokenTrace


@dataclass(frozen=True, slots=True)
class Sample:
    """Training sample of one episode."""

    token_ids: tuple[int, ...]
    """Ids exactly as the model read or sampled them, length T."""
    loss_mask: tuple[bool, ...]
    """True for tokens that the policy sampled, length T. Only these are trained."""
    old_logprobs: tuple[float, ...]
    """Natural log at the sampling temperature, length T. Used only if `loss_mask` is True."""
    advantage: float
    """Advantage of the whole episode. Ignored by SFT."""
    weight: float = 1.0
    """Factor of each token in the loss and in the denominator."""
    token_advantages: tuple[float, ...] | None = None
    """Advantages by token, length T, used instead of `advantage` for credit by turns."""
    trainer_logprobs: tuple[float, ...] | None = None
    """Trainer's logprobs before the first update, length T; `None` without a correction."""
    starts: tuple[int, ...] = ()
    """Positions at which further streams of the episode begin; see `TokenTrace`. The model reads
    each stream alone."""

    def __post_init__(self) -> None:
        lengths = len(self.token_ids), len(self.loss_mask), len(self.old_logprobs)
        if len(set(lengths)) != 1:
            raise ValueError(
                "a sample needs one mask bit and one logprob for every id, "
                "got {} ids, {} bits, {} logprobs.".format(*lengths)
            )
        for name in ("token_advantages", "trainer_logprobs"):
            if (values := getattr(self, name)) is not None and len(values) != lengths[0]:
                raise ValueError(
                    f"a sample of {lengths[0]} ids needs as many {name}, got {len(values)}."
                )
        if any(self.loss_mask[start] for start in (0, *self.starts) if self.loss_mask):
            raise ValueError(
                "the first token of a sample or stream cannot be trained, because no token "
                "precedes it. Set loss_mask[0] to False."
            )

    @classmethod
    def from_trace(
        cls, trace: TokenTrace, *, advantage: float = 0.0, weight: float = 1.0
    ) -> Sample:
        """Return the sample of an episode's tokens."""
        return cls(
            trace.token_ids,
            trace.loss_mask,
            trace.logprobs,
            advantage,
            weight,
            starts=trace.starts,
        )

    @property
    def num_actions(self) -> int:
        """Number of tokens that the policy sampled."""
        return sum(self.loss_mask)

    @property
    def has_advantage(self) -> bool:
        """Whether any sampled token has a nonzero advantage."""
        if self.token_advantages is None:
            return self.advantage != 0
        return any(
            sampled and value != 0
            for sampled, value in zip(self.loss_mask, self.token_advantages, strict=True)
        )

    @property
    def input_length(self) -> int:
        """Number of tokens that the model must read: all before the last sampled one."""
        return max((t for t, sampled in enumerate(self.loss_mask) if sampled), default=0)

    @property
    def inputs(self) -> list[range]:
        """Positions that the model must read, for each stream: all before its last sampled one."""
        bounds = pairwise((0, *self.starts, len(self.token_ids)))
        return [
            range(start, max((t for t in range(start, stop) if self.loss_mask[t]), default=start))
            for start, stop in bounds
        ]


@dataclass(frozen=True, slots=True)
class Batch:
    """Input of one forward pass in any layout: B rows of S tokens, N nodes, E entries.

    A *node* is a pair of hidden state and next id for which a logprob is computed. An *entry* is
    one sampled token of one sample. In a prefix tree several entries may share a node.
    """

    input_ids: Tensor
    """Shape (B, S), int64."""
    position_ids: Tensor
    """Depth in the conversation, shape (B, S), int64."""
    attention_mask: Tensor | None
    """True for real tokens, shape (B, S), bool, with implied causality; `None` in a prefix tree."""
    subtree_end: Tensor | None
    """End (exclusive) of each token's descendants, shape (S,), int64; `None` in the flat layout.

    Query q attends to key k if and only if k <= q < subtree_end[k].
    """
    score_rows: Tensor
    """Row of the hidden state that predicts, shape (N,), int64."""
    score_positions: Tensor
    """Position of the hidden state that predicts, shape (N,), int64."""
    score_ids: Tensor
    """Predicted id, shape (N,), int64."""
    action_nodes: Tensor
    """Node of each entry, shape (E,), int64."""
    action_samples: Tensor
    """Sample of each entry, shape (E,), int64, in the order of the input."""
    old_logprobs: Tensor
    """Shape (E,), float32."""
    advantages: Tensor
    """Shape (E,), float32."""
    weights: Tensor
    """Shape (E,), float32."""
    trainer_logprobs: Tensor | None
    """Shape (E,), float32; `None` unless every sample has them."""
    num_tokens: int
    """Tokens that the model reads, without padding."""
    num_flat_tokens: int
    """Tokens that the model would read without shared prefixes."""

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch on another device."""
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
    """Return a batch with one right-padded row for each sample.

    Args:
        samples: Samples, each with at least one sampled token.
        pad_id: Any valid id. It has no effect, because masks use lengths.
    """
    streams = [(sample, places) for sample in samples for places in sample.inputs]
    lengths = [len(places) for _, places in streams]
    width = max(lengths)
    rows = [
        [sample.token_ids[place] for place in places] + [pad_id] * (width - len(places))
        for sample, places in streams
    ]
    paths: list[dict[int, tuple[int, int]]] = []
    row = 0
    for sample in samples:
        paths.append({})
        for places in sample.inputs:
            paths[-1] |= {place: (row, column) for column, place in enumerate(places)}
            row += 1
    positions = torch.arange(width)
    return Batch(
        input_ids=torch.tensor(rows),
        position_ids=positions.expand(len(rows), width),
        attention_mask=positions < torch.tensor(lengths)[:, None],  # (B, S)
        subtree_end=None,
        num_tokens=sum(lengths),
        num_flat_tokens=sum(lengths),
        **entries(samples, paths),
    )


def entries(
    samples: Sequence[Sample], paths: Sequence[Mapping[int, tuple[int, int]]]
) -> dict[str, Any]:
    """Return the nodes and entries of a batch as a dict of `Batch` fields.

    Args:
        samples: Samples of the batch.
        paths: Place (row, column) of each input token by its position, for each sample.
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
    action_nodes, action_samples, *floats = zip(*table, strict=True)
    old_logprobs, advantages, weights = torch.tensor(floats, dtype=torch.float32)
    return {
        "score_rows": rows,
        "score_positions": positions,
        "score_ids": ids,
        "action_nodes": torch.tensor(action_nodes),
        "action_samples": torch.tensor(action_samples),
        "old_logprobs": old_logprobs,
        "advantages": advantages,
        "weights": weights,
        "trainer_logprobs": _scored(samples),
    }


def _scored(samples: Sequence[Sample]) -> Tensor | None:
    """Return the trainer's logprobs in the order of the entries, shape (E,)."""
    rows = [sample.trainer_logprobs for sample in samples]
    if any(row is None for row in rows):
        return None
    pairs = [
        (value, sampled)
        for row, sample in zip(rows, samples, strict=True)
        for value, sampled in zip(row or (), sample.loss_mask, strict=True)
    ]
    return torch.tensor([value for value, sampled in pairs if sampled], dtype=torch.float32)
