"""Token dialogues for the sampler's tests, and their comparison with plain forward passes."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from envgym.errors import WorldFailure
from envgym.messages import Message
from envgym_trainer.inference.dialogue import TokenDialogue

SYSTEM = Message("system", "You are a calculator. " * 3)


def user(text: str) -> Message:
    return Message("user", text)


def talk(
    policy, *, seed: int, turns: int = 3, opening=None, words: str = "tell me about"
) -> TokenDialogue:
    """Run one dialogue whose observations differ in length between turns and seeds."""
    dialogue = policy.open(opening or [SYSTEM, user(f"{words} {seed}")], (), seed=seed)
    for turn in range(turns):
        dialogue.reply()
        if turn < turns - 1:
            dialogue.observe([Message("tool", f"{seed} " * (1 + (seed + turn) % 5))])
    return dialogue


def together(job, count: int) -> list:
    """Run job(0) .. job(count - 1) concurrently and return their results."""
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(job, range(count)))


def in_one_step(engine, job, count: int) -> list:
    """Run jobs as `together` does, but start sampling when all first turns are pending.

    The batch therefore does not depend on thread timing.
    """
    held = threading.Event()
    turns = engine._scheduler.turns

    def hold() -> None:
        held.set()
        while len(turns) < count:
            time.sleep(0.001)

    with ThreadPoolExecutor(1) as holder:
        holding = holder.submit(engine._command, hold)
        held.wait()
        results = together(job, count)
        holding.result()
    return results


def failure_of(job) -> WorldFailure:
    """Return the failure that the job raises."""
    with pytest.raises(WorldFailure) as caught:
        job()
    return caught.value


def turns_of(trace) -> list[tuple[int, int]]:
    """Return (start, end) of each run of sampled tokens."""
    edges = [
        i
        for i, (a, b) in enumerate(
            zip((False, *trace.loss_mask), (*trace.loss_mask, False), strict=True)
        )
        if a != b
    ]
    return list(zip(edges[::2], edges[1::2], strict=True))


def least_work(traces) -> int:
    """Return the minimum number of tokens to read for these traces.

    Every prefix counts once. A trace's last token does not count: nothing is sampled after it.
    """
    return len(
        {trace.token_ids[:end] for trace in traces for end in range(1, len(trace.token_ids))}
    )


@torch.no_grad()
def fresh_logprobs(model, trace, temperature: float = 1.0) -> torch.Tensor:
    """Return each token's logprob under one plain forward pass, shape (T,); the first is 0."""
    ids = torch.tensor([trace.token_ids])
    logprobs = (model(ids).logits[0, :-1].float() / temperature).log_softmax(-1)
    return torch.cat([torch.zeros(1), logprobs.gather(1, ids[0, 1:, None])[:, 0]])


def gap(model, trace, temperature: float = 1.0) -> float:
    """Return the largest logprob difference between the sampler and a fresh forward pass."""
    mask = torch.tensor(trace.loss_mask)
    return (
        (torch.tensor(trace.logprobs) - fresh_logprobs(model, trace, temperature))[mask]
        .abs()
        .max()
        .item()
    )


def assert_greedy_as_generate(model, trace, *, limit: int) -> None:
    """Assert that each sampled turn equals the output of `generate` for the preceding ids."""
    for start, end in turns_of(trace):
        before = torch.tensor([trace.token_ids[:start]])
        out = model.generate(
            before, attention_mask=torch.ones_like(before), max_new_tokens=limit, do_sample=False
        )
        assert out[0, start:].tolist() == list(trace.token_ids[start:end])
