"""Forward passes split over threads: equal logits, balanced shares, the faster way chosen."""

import threading
import time

import pytest
import torch

from envgym_trainer.inference.in_process.forward import (
    LEAST_TOKENS,
    MOST_SHARES,
    CachedForward,
    _single_threads,
    split,
)
from envgym_trainer.inference.in_process.layout import RowInput
from tests.fakes.small_models import byte_tokenizer, small_llama

EVERY = torch.get_num_threads()


@pytest.fixture(autouse=True, scope="module")
def every_thread():
    """Use every thread: the choices under test depend on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(EVERY)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def passes():
    passes = CachedForward(small_llama(byte_tokenizer()), rows=64, shared_rows=4, max_context=300)
    yield passes
    passes.close()


@pytest.fixture
def in_shares(passes):
    """Split into two shares, whichever way is faster on this machine."""
    passes._helpers = _single_threads(1)
    passes._shares = 2
    torch.set_num_threads(EVERY)
    yield passes
    passes.close()
    passes._helpers = None
    passes._shares = 1


def play(passes) -> list[torch.Tensor]:
    """Run a segment, ragged prompts and two decoding passes, one with a long observation."""
    passes.forget()
    with torch.inference_mode():
        passes.logits([RowInput(list(range(3, 40)), 1, 0, own=False)], [])
        prompts = [RowInput(list(range(3, 5 + row)), row, 0, 1, 37) for row in range(40)]
        decoding = [RowInput([7], row, 2 + row, 1, 37) for row in range(40)]
        observing = [
            RowInput([8] * (50 if row == 5 else 1), row, 3 + row, 1, 37) for row in range(40)
        ]
        return [
            passes.logits(works, due)
            for works, due in ((prompts, [3, 1, 39]), (decoding, range(40)), (observing, [5, 4]))
        ]


def test_shares_change_no_logit(passes, in_shares):
    cut = play(in_shares)
    passes._shares = 1
    for one, other in zip(play(passes), cut, strict=True):
        assert one.shape == other.shape
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_a_share_that_fails_fails_the_pass_after_the_others_have_ended(in_shares, monkeypatch):
    busy = threading.Event()

    def half(works, due, whole=in_shares._pass):
        if threading.current_thread().name.startswith("envgym-pass"):
            busy.wait(0.2)
            busy.set()
            return whole(works, due)
        raise MemoryError("this share")

    monkeypatch.setattr(in_shares, "_pass", half)
    with pytest.raises(MemoryError, match="this share"):
        in_shares.logits([RowInput([5], row, 0) for row in range(40)], [0])
    assert busy.is_set()


@pytest.mark.parametrize(
    ("tokens", "shares", "sizes"),
    [
        ([1] * 64, 4, [16, 16, 16, 16]),
        ([1] * (2 * LEAST_TOKENS - 1), 2, [31]),  # too few for two
        ([200, 1, 1, 1], 3, [1, 2, 200]),
        ([40, 30, 30, 20, 1, 1], 2, [61, 61]),
        ([1], 2, [1]),
    ],
)
def test_shares_hold_every_work_once_and_weigh_about_the_same(tokens, shares, sizes):
    parts = split(tokens, shares)
    assert sorted(index for part in parts for index in part) == list(range(len(tokens)))
    assert sorted(sum(tokens[index] for index in part) for part in parts) == sizes


@pytest.mark.skipif(EVERY == 1, reason="there is one way only with one thread")
@pytest.mark.parametrize("slow", ["shares", "whole"])
def test_the_faster_way_is_kept_for_the_thread_that_computes(monkeypatch, slow):
    found = {}
    plain = CachedForward._pass

    def slowed(passes, works, due):
        time.sleep(0.2 * ((torch.get_num_threads() == 1) == (slow == "shares")))
        return plain(passes, works, due)

    def compute():
        passes = CachedForward(
            small_llama(byte_tokenizer()), rows=64, shared_rows=4, max_context=300
        )
        monkeypatch.setattr(CachedForward, "_pass", slowed)
        passes.tune()
        found.update(threads=torch.get_num_threads(), shares=passes._shares)
        passes.close()

    thread = threading.Thread(target=compute)
    thread.start()
    thread.join()
    assert found == (
        {"threads": EVERY, "shares": 1}
        if slow == "shares"
        else {"threads": 1, "shares": min(EVERY, MOST_SHARES)}
    )
    assert torch.get_num_threads() == EVERY
    torch.set_num_threads(EVERY)  # for threads that start later
