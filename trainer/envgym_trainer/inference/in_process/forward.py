"""Forward passes of the sampler: works in, logits out, keys and values kept in between.

On a CPU a pass that decodes is a thousand small operations, and cutting each of them over the cores can cost more in waking
threads than it brings. Then the rows are cut instead: a few shares, each on one thread through the whole model. Which way is
faster depends on the machine and is measured once, when the passes are made.
Left out: several devices, CUDA graphs.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import torch
from torch import Tensor

from envgym.errors import UsageError
from envgym_trainer.inference.in_process import attention
from envgym_trainer.inference.in_process.kv_cache import KeyValues
from envgym_trainer.inference.in_process.layout import Work, lay_out, make_room
from envgym_trainer.inference.in_process.native_threads import dismiss_team

MOST_SHARES = 4
LEAST_TOKENS = 16
"""Of a share: every share reads all weights, which fewer tokens would not be worth."""


class Passes:
    """The model with its stores. One thread at a time may use it.

    Args:
        model: a causal language model; from now on its attention is the sampler's.
        rows: dialogues whose keys and values are kept. shared_rows: segments. max_context: tokens of the longest dialogue.
    Raises: UnknownAttention for a model whose attention is of another kind. UsageError where it should be known and yet gives
        other logits.
    """

    def __init__(self, model: Any, *, rows: int, shared_rows: int, max_context: int):
        self.model = model
        self._rows = rows
        self._shared_rows = shared_rows
        self._max_context = max_context
        self.device = model.get_input_embeddings().weight.device
        self._helpers: ThreadPoolExecutor | None = None
        self._shares = 1
        self.forget()
        self._prove()

    def forget(self) -> None:
        """Makes the stores anew."""
        config = self.model.config
        heads = config.num_key_value_heads or config.num_attention_heads
        dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self.own, self.shared = (
            KeyValues(
                layers=config.num_hidden_layers,
                rows=rows,
                tokens=self._max_context,
                heads=heads,
                dim=dim,
                dtype=self.model.dtype,
                device=self.device,
            )
            for rows in (self._rows, self._shared_rows)
        )

    def logits(self, works: Sequence[Work], due: Sequence[int]) -> Tensor:
        """Computes all works; returns the logits of the last token of those in `due`, (len(due), V), in their order."""
        make_room(works, self.own, self.shared)  # here, before several threads use them
        shares = split([len(work.ids) for work in works], min(self._shares, len(works)))
        if len(shares) == 1 or self._helpers is None:
            return self._pass(works, due)
        wanted = set(due)
        mine = [[index for index in share if index in wanted] for share in shares]
        jobs = [
            ([works[i] for i in share], [share.index(i) for i in own])
            for share, own in zip(shares, mine, strict=True)
        ]
        others = [self._helpers.submit(self._pass, *job) for job in jobs[1:]]
        try:
            first = self._pass(*jobs[0])
        finally:
            wait(others)  # nobody writes into the stores after this returns or raises
        parts = [first, *(other.result() for other in others)]
        place = {index: row for row, index in enumerate(index for own in mine for index in own)}
        return torch.cat(parts)[[place[index] for index in due]]

    def copy(self, source: int, target: int, start: int, stop: int, *, own: bool = True) -> None:
        """Copies the tokens from `start` to `stop` of one dialogue's row to another's; of one segment's, where not `own`."""
        (self.own if own else self.shared).copy(source, target, start, stop)

    @torch.inference_mode()
    def tune(self) -> None:
        """Chooses between all threads on each operation and one thread on each share of the rows, by decoding a few times.

        Call it on the thread that will compute: the number of threads is set for that one. The stores are made anew.
        """
        threads = torch.get_num_threads()
        if self.device.type != "cpu" or threads == 1:
            return
        shares = min(threads, MOST_SHARES)
        works = [Work([0], row, 0) for row in range(min(4 * LEAST_TOKENS, self._rows))]
        helpers = _single_threads(shares - 1)
        seconds: dict[bool, list[float]] = {True: [], False: []}
        for alone in (False, False, True, True) * 3:
            self._helpers, self._shares = (helpers, shares) if alone else (None, 1)
            torch.set_num_threads(1 if alone else threads)
            started = time.perf_counter()
            self.logits(works, range(len(works)))
            seconds[alone].append(time.perf_counter() - started)
        self.forget()  # the trial's rows may be more than are ever used
        if min(seconds[False]) < min(seconds[True]):
            self._helpers = None
            self._shares = 1
            torch.set_num_threads(threads)
            helpers.shutdown()
        else:
            dismiss_team()

    def close(self) -> None:
        """Ends the threads."""
        if self._helpers is not None:
            self._helpers.shutdown()

    @torch.inference_mode()
    def _pass(self, works: Sequence[Work], due: Sequence[int]) -> Tensor:
        packed = lay_out(works, self.own, self.shared, self.device)
        return self.model(
            input_ids=packed.ids,
            position_ids=packed.positions,
            use_cache=False,
            logits_to_keep=packed.last[list(due)],
            envgym_layout=packed.layout,
        ).logits[0]

    @torch.inference_mode()
    def _prove(self) -> None:
        """Compares the sampler's way through the model with the model's own, on one short text in three parts."""
        ids = [index % self.model.config.vocab_size for index in (3, 1, 4, 1, 5, 9, 2)]
        expected = self.model(
            input_ids=torch.tensor([ids], device=self.device), use_cache=False
        ).logits[0, -1]
        own = self.model.config._attn_implementation
        self.model.config._attn_implementation = attention.NAME
        try:
            for work in (
                Work(ids[:3], 0, 0, own=False),
                Work(ids[3:6], 0, 0, 0, 3),
                Work(ids[6:], 0, 3, 0, 3),
            ):
                found = self.logits([work], [0])[0]
        except attention.UnknownAttention:
            self.model.config._attn_implementation = own
            raise
        gap = (found - expected).abs().max().item() / expected.abs().max().item()
        if not gap < (1e-3 if self.model.dtype == torch.float32 else 0.1):
            name = type(self.model).__name__
            raise UsageError(
                f"{name}: the sampler's attention gives other logits than the model's own (relative gap {gap:.2g})."
            )


def split(tokens: Sequence[int], shares: int) -> list[list[int]]:
    """Indices of works in at most `shares` shares of about equally many tokens, none with fewer than LEAST_TOKENS."""
    count = max(1, min(shares, sum(tokens) // LEAST_TOKENS))
    parts: list[list[int]] = [[] for _ in range(count)]
    sizes = [0] * count
    for index in sorted(range(len(tokens)), key=lambda index: -tokens[index]):
        lightest = sizes.index(min(sizes))
        parts[lightest].append(index)
        sizes[lightest] += tokens[index]
    return [part for part in parts if part]


def _single_threads(count: int) -> ThreadPoolExecutor:
    """Threads that compute on one core each, all of them started."""
    pool = ThreadPoolExecutor(
        count, "envgym-pass", initializer=torch.set_num_threads, initargs=(1,)
    )
    together = threading.Barrier(count)
    list(pool.map(lambda _: together.wait(), range(count)))
    return pool
