"""Pack the new tokens of many rows into one forward pass, with masks and indices.

Pure functions that build the tensors for `attention.py`. Masks and indices are built once per pass
and used by all layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from envgym_trainer.inference.in_process.attention import Layout, Segments, Singles, Span
from envgym_trainer.inference.in_process.kv_cache import KeyValues

LOW = -1e30
"""Added to a score that must not count. It is finite, so a row without keys is not NaN."""


@dataclass(frozen=True, slots=True)
class RowInput:
    """New tokens of one row. The row is a dialogue, or a shared prefix if `own` is False."""

    ids: Sequence[int]
    row: int
    before: int
    """Tokens of this row that are already stored."""
    shared_row: int = 0
    shared: int = 0
    """Tokens of the shared prefix."""
    own: bool = True

    @property
    def single(self) -> bool:
        return self.own and len(self.ids) == 1


@dataclass(frozen=True, slots=True)
class Pass:
    """One forward pass over N packed tokens."""

    ids: Tensor
    """Shape (1, N)."""
    positions: Tensor
    """Shape (1, N)."""
    last: Tensor
    """Position of each work's last token, shape (W,), in the order of the works."""
    layout: Layout


def make_room(works: Sequence[RowInput], own: KeyValues, shared: KeyValues) -> None:
    """Grow the stores if they are too small for the works."""
    for store, mine in (
        (own, [work for work in works if work.own]),
        (shared, [work for work in works if not work.own]),
    ):
        if mine:
            store.reserve(
                max(work.row for work in mine) + 1,
                max(work.before + len(work.ids) for work in mine),
            )


def lay_out(
    works: Sequence[RowInput], own: KeyValues, shared: KeyValues, device: torch.device
) -> Pass:
    """Return one pass over all works. Call `make_room` first.

    Works with several tokens come first.
    """
    order = sorted(range(len(works)), key=lambda index: (works[index].single, works[index].row))
    ids: list[int] = []
    positions: list[int] = []
    last = [0] * len(works)
    spans: list[Span] = []
    singles = [works[index] for index in order if works[index].single]
    for index in order:
        work = works[index]
        if not work.single:
            spans.append(_span(work, len(ids), own if work.own else shared, device))
        first = work.shared + work.before
        ids += work.ids
        positions += range(first, first + len(work.ids))
        last[index] = len(ids) - 1
    ones = _singles(singles, len(ids) - len(singles), device) if singles else None
    layout = Layout(own, shared, spans, ones, longest=max(positions) + 1)
    tokens, places = (torch.tensor([values], device=device) for values in (ids, positions))
    return Pass(tokens, places, torch.tensor(last, device=device), layout)


def _span(work: RowInput, start: int, store: KeyValues, device: torch.device) -> Span:
    count = len(work.ids)
    seen = work.shared + work.before
    mask = (
        torch.ones(count, seen + count, dtype=torch.bool, device=device).tril(seen)
        if seen
        else None
    )
    return Span(
        start, start + count, store, work.row, work.before, work.shared_row, work.shared, mask
    )


def _singles(works: list[RowInput], start: int, device: torch.device) -> Singles:
    """Return the layout of rows with one new token. `works` must be sorted by row."""
    rows = [work.row for work in works]
    select, place, count = _select(rows, device)
    lengths = [0] * count
    for where, work in zip(place, works, strict=True):
        lengths[where] = work.before + 1
    return Singles(
        start=start,
        rows=torch.tensor(rows, device=device),
        before=torch.tensor([work.before for work in works], device=device),
        select=select,
        place=torch.tensor(place, device=device),
        length=max(lengths),
        mask=_mask(lengths, device),
        segments=_segments(works, place, count, device),
    )


def _segments(
    works: list[RowInput], place: list[int], count: int, device: torch.device
) -> Segments | None:
    """Return the grid of shared prefixes of these works, at positions `place` of `count` rows."""
    members: dict[int, list[int]] = {}
    lengths: dict[int, int] = {}
    for where, work in zip(place, works, strict=True):
        if work.shared:
            members.setdefault(work.shared_row, []).append(where)
            lengths[work.shared_row] = work.shared
    if not members:
        return None
    used = sorted(members)
    select, unit, units = _select(used, device)
    widest = max(map(len, members.values()))
    grid = [0] * (units * widest)
    cell = [0] * count
    alone = [LOW] * count
    unit_lengths = [0] * units
    for row, position in zip(used, unit, strict=True):
        unit_lengths[position] = lengths[row]
        for offset, where in enumerate(members[row]):
            grid[position * widest + offset], cell[where], alone[where] = (
                where,
                position * widest + offset,
                0.0,
            )
    return Segments(
        select=select,
        length=max(unit_lengths),
        mask=_mask(unit_lengths, device),
        grid=torch.tensor(grid, device=device),
        cell=torch.tensor(cell, device=device),
        alone=torch.tensor(alone, device=device).view(-1, 1, 1, 1),
    )


def _select(rows: list[int], device: torch.device) -> tuple[slice | Tensor, list[int], int]:
    """Return an index for sorted rows: a slice if at least half of its rows are used, or a gather.

    Returns:
        The index, the position of each row in its result, and the number of rows of the result.
    """
    first = rows[0]
    count = rows[-1] + 1 - rows[0]
    if count <= 2 * len(rows):
        return slice(first, first + count), [row - first for row in rows], count
    return torch.tensor(rows, device=device), list(range(len(rows))), len(rows)


def _mask(lengths: list[int], device: torch.device) -> Tensor:
    """Return a mask of shape (n, 1, 1, longest): 0 for each row's tokens, LOW after them."""
    places = torch.arange(max(lengths), device=device)
    beyond = places >= torch.tensor(lengths, device=device).unsqueeze(1)
    return beyond.float().mul_(LOW)[:, None, None]
