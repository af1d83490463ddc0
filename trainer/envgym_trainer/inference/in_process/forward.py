"""Forward passes of the sampler with cached keys and values.

On a CPU, a decoding pass consists of about a thousand small operations. Splitting each of them over
all cores can cost more than it saves, because threads must wake up. The alternative splits the rows
into a few shares, each with one thread for the whole model. The faster way depends on the machine
and is measured once, in `tune`.
Not supported: several devices, CUDA graphs.
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
from envgym_trainer.inference.in_process.layout import RowInput, lay_out, make_room
from envgym_trainer.inference.in_process.native_threads import release_openmp_threads

MOST_SHARES = 4
LEAST_TOKENS = 16
"""Minimum number of tokens per share.

Each share reads all weights, which fewer tokens do not repay.
"""


class CachedForward:
    """Model with its KV cache. Only one thread at a time may use it.

    Args:
        model: Causal language model. Its attention is replaced by the sampler's.
        rows: Number of cached dialogues.
        shared_rows: Number of cached shared prefixes.
        max_context: Maximum length of a dialogue in tokens.

    Raises:
        UnknownAttention: If the model's attention is not supported.
        UsageError: If the attention should be supported but gives other logits than the model.
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
        """Replace the KV cache by an empty one."""
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

    def logits(self, works: Sequence[RowInput], due: Sequence[int]) -> Tensor:
        """Compute all inputs.

        Returns:
            Logits of the last token of each input in `due`, in that order, shape (len(due), V).
        """
        # Resize the cache before several threads use it.
        make_room(works, self.own, self.shared)
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
            # No thread may write into the cache after this method returns or raises.
            wait(others)
        parts = [first, *(other.result() for other in others)]
        place = {index: row for row, index in enumerate(index for own in mine for index in own)}
        return torch.cat(parts)[[place[index] for index in due]]

    def copy(self, source: int, target: int, start: int, stop: int, *, own: bool = True) -> None:
        """Copy cached tokens from `start` to `stop` to another row.

        If `own` is False, the source is the row of a shared prefix.
        """
        (self.own if own else self.shared).copy(source, target, start, stop)

    @torch.inference_mode()
    def tune(self) -> None:
        """Measure which split of the work is faster by decoding a few times, and use it.

        Call it on the thread that will compute, because torch sets the number of threads by thread.
        The KV cache is emptied.
        """
        threads = torch.get_num_threads()
        if self.device.type != "cpu" or threads == 1:
            return
        shares = min(threads, MOST_SHARES)
        works = [RowInput([0], row, 0) for row in range(min(4 * LEAST_TOKENS, self._rows))]
        helpers = _single_threads(shares - 1)
        seconds: dict[bool, list[float]] = {True: [], False: []}
        for alone in (False, False, True, True) * 3:
            self._helpers, self._shares = (helpers, shares) if alone else (None, 1)
            torch.set_num_threads(1 if alone else threads)
            started = time.perf_counter()
            self.logits(works, range(len(works)))
            seconds[alone].append(time.perf_counter() - started)
        # The trial may have used more rows than will ever be needed.
        self.forget()
        if min(seconds[False]) < min(seconds[True]):
            self._helpers = None
            self._shares = 1
            torch.set_num_threads(threads)
            helpers.shutdown()
        else:
            release_openmp_threads()

    def close(self) -> None:
        """Stop the threads."""
        if self._helpers is not None:
            self._helpers.shutdown()

    @torch.inference_mode()
    def _pass(self, works: Sequence[RowInput], due: Sequence[int]) -> Tensor:
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
        """Compare the sampler's logits with the model's on a short text in three parts."""
        ids = [index % self.model.config.vocab_size for index in (3, 1, 4, 1, 5, 9, 2)]
        expected = self.model(
            input_ids=torch.tensor([ids], device=self.device), use_cache=False
        ).logits[0, -1]
        own = self.model.config._attn_implementation
        self.model.config._attn_implementation = attention.NAME
        try:
            for work in (
                RowInput(ids[:3], 0, 0, own=False),
                RowInput(ids[3:6], 0, 0, 0, 3),
                RowInput(ids[6:], 0, 3, 0, 3),
            ):
                found = self.logits([work], [0])[0]
        except attention.UnknownAttention:
            self.model.config._attn_implementation = own
            raise
        gap = (found - expected).abs().max().item() / expected.abs().max().item()
        if not gap < (1e-3 if self.model.dtype == torch.float32 else 0.1):
            name = type(self.model).__name__
            raise UsageError(
                f"{name}: the sampler's attention gives other logits than the model's own "
                f"(relative gap {gap:.2g})."
            )


def split(tokens: Sequence[int], shares: int) -> list[list[int]]:
    """Split inputs into at most `shares` shares of similar size, and return their indices.

    No share has fewer than LEAST_TOKENS tokens.
    """
    count = max(1, min(shares, sum(tokens) // LEAST_TOKENS))
    parts: list[list[int]] = [[] for _ in range(count)]
    sizes = [0] * count
    for index in sorted(range(len(tokens)), key=lambda index: -tokens[index]):
        lightest = sizes.index(min(sizes))
        parts[lightest].append(index)
        sizes[lightest] += tokens[index]
    return [part for part in parts if part]


def _single_threads(count: int) -> ThreadPoolExecutor:
    """Return a pool of started threads that each compute on one core."""
    pool = ThreadPoolExecutor(
        count, "envgym-pass", initializer=torch.set_num_threads, initargs=(1,)
    )
    together = threading.Barrier(count)
    list(pool.map(lambda _: together.wait(), range(count)))
    return pool
