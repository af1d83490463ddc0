"""Forward passes for models whose attention the sampler does not support.

Uses the model's forward, one row at a time. This works for every model that transformers can
generate with, but it is slow: no batches, no shared prefixes, and a dialogue that diverges from its
group computes its context again. Only each row's cache, of the model's type, is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from envgym_trainer.inference.in_process.attention import UnknownAttention, why_unknown
from envgym_trainer.inference.in_process.forward import CachedForward
from envgym_trainer.inference.in_process.layout import RowInput


@dataclass
class CacheRow:
    """Tokens of a dialogue or a shared prefix, and the model's cache for them."""

    ids: list[int] = field(default_factory=list)
    past: list[int] = field(default_factory=list)
    """Tokens in the cache, including the shared prefix."""
    cache: Any = None


class PlainForward:
    """Same interface as `forward.CachedForward`, computed with the model's forward."""

    def __init__(self, model: Any, *, rows: int, shared_rows: int):
        self.model = model
        self._sizes = (rows, shared_rows)
        self.device = model.get_input_embeddings().weight.device
        self.forget()

    def forget(self) -> None:
        """Clear all rows."""
        rows, shared_rows = self._sizes
        self.own, self.shared = (
            [CacheRow() for _ in range(count)] for count in (rows, shared_rows)
        )

    @torch.inference_mode()
    def logits(self, works: Sequence[RowInput], due: Sequence[int]) -> Tensor:
        """Compute all inputs.

        Returns:
            Logits of the last token of each input in `due`, in that order, shape (len(due), V).
        """
        for work in works:
            row = (self.own if work.own else self.shared)[work.row]
            row.ids = [*row.ids[: work.before], *work.ids]
        rows = [self._last_logits(works[index]) for index in due]
        return (
            torch.stack(rows)
            if rows
            else torch.empty(0, self.model.config.vocab_size, device=self.device)
        )

    def copy(self, source: int, target: int, start: int, stop: int, *, own: bool = True) -> None:
        """Copy cached tokens from `start` to `stop` to another row.

        If `own` is False, the source is the row of a shared prefix.
        """
        rows = self.own if own else self.shared
        rows[target].ids = [*rows[target].ids[:start], *rows[source].ids[start:stop]]

    def tune(self) -> None:
        """Do nothing: there is only one way to compute."""

    def close(self) -> None:
        """Do nothing: there are no threads."""

    def _last_logits(self, work: RowInput) -> Tensor:
        """Return the logits after all tokens of a dialogue, shape (V,).

        Cached tokens are not recomputed.
        """
        row = self.own[work.row]
        ids = [*self.shared[work.shared_row].ids[: work.shared], *row.ids]
        if row.past != ids[: len(row.past)] or len(row.past) >= len(ids):
            row.past = []
            row.cache = None
        new = torch.tensor([ids[len(row.past) :]], device=self.device)
        out = self.model(input_ids=new, past_key_values=row.cache, use_cache=True, logits_to_keep=1)
        row.past = ids
        row.cache = out.past_key_values
        return out.logits[0, -1]


def open_passes(
    model: Any, *, rows: int, shared_rows: int, max_context: int, notify: Callable[[str], None]
) -> CachedForward | PlainForward:
    """Return the fast passes if the model's attention is supported, otherwise the plain ones.

    `notify` receives one line of text if the plain ones are used.
    """
    why = why_unknown(model.config, max_context)
    if why is None:
        try:
            return CachedForward(model, rows=rows, shared_rows=shared_rows, max_context=max_context)
        except UnknownAttention as error:
            why = str(error)
    notify(
        f"{type(model).__name__} is sampled with its own forward, one dialogue at a time, which is "
        f"slow: {why}"
    )
    return PlainForward(model, rows=rows, shared_rows=shared_rows)
