"""The sampler's plain path, for models whose attention the fast one does not know: the model's own forward, a row at a time.

Exact for whatever transformers can generate with, and slow: no batch, nothing shared between dialogues, and a dialogue that
departs from its sibling computes its past anew. What it keeps is each row's cache, whatever kind the model makes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from envgym_trainer.inference.in_process.attention import UnknownAttention, why_unknown
from envgym_trainer.inference.in_process.forward import Passes
from envgym_trainer.inference.in_process.layout import Work


@dataclass
class Row:
    """A dialogue's own tokens, or a segment's, and the model's cache of all that was computed for it."""

    ids: list[int] = field(default_factory=list)
    past: list[int] = field(default_factory=list)
    """Tokens in the cache, the segment's in front included."""
    cache: Any = None


class PlainPasses:
    """The interface of `passes.Passes` over the model's own forward. Args: as there."""

    def __init__(self, model: Any, *, rows: int, shared_rows: int):
        self.model = model
        self._sizes = (rows, shared_rows)
        self.device = model.get_input_embeddings().weight.device
        self.forget()

    def forget(self) -> None:
        """Empties the rows."""
        rows, shared_rows = self._sizes
        self.own, self.shared = ([Row() for _ in range(count)] for count in (rows, shared_rows))

    @torch.inference_mode()
    def logits(self, works: Sequence[Work], due: Sequence[int]) -> Tensor:
        """Computes all works; returns the logits of the last token of those in `due`, (len(due), V), in their order."""
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
        """Copies the tokens from `start` to `stop` of one dialogue's row to another's; of one segment's, where not `own`."""
        rows = self.own if own else self.shared
        rows[target].ids = [*rows[target].ids[:start], *rows[source].ids[start:stop]]

    def tune(self) -> None:
        """There is one way only."""

    def close(self) -> None:
        """There is nothing to end."""

    def _last_logits(self, work: Work) -> Tensor:
        """(V,) after all of a dialogue's tokens; what is in its cache is not computed again."""
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
    model: Any, *, rows: int, shared_rows: int, max_context: int, say: Callable[[str], None]
) -> Passes | PlainPasses:
    """The fast passes where this model's attention is known, else the plain ones, and `say` is told."""
    why = why_unknown(model.config, max_context)
    if why is None:
        try:
            return Passes(model, rows=rows, shared_rows=shared_rows, max_context=max_context)
        except UnknownAttention as error:
            why = str(error)
    say(
        f"{type(model).__name__} is sampled by its own forward, one dialogue at a time, which is slow: {why}"
    )
    return PlainPasses(model, rows=rows, shared_rows=shared_rows)
