"""Measure one kind of sampling.  python -m steps.sample LOAD_JSON MODEL THREADS

engine      envgym's sampler: dialogues on threads, as in training
generate    transformers' `generate`; reads the whole history again at each turn, as TRL does
products    the tokens' matrix products only: sampled ones by batch, others 512 at a time
"""

from __future__ import annotations

import json
import random
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch

from envgym.messages import Message
from envgym_trainer.inference.in_process.engine import InProcessEngine
from envgym_trainer.model.chat import Chat
from envgym_trainer.model.load import load_model
from envgym_trainer.model.lora import attach_lora
from steps.work import Clock, peak_mb, words

Side = Literal["engine", "generate", "products"]


@dataclass(frozen=True, slots=True)
class Load:
    """Number and size of dialogues, in groups that share a prompt."""

    side: Side
    dialogues: int = 16
    group: int = 8
    turns: int = 3
    turn_tokens: int = 60
    tool_tokens: int = 40
    prompt_tokens: int = 600
    tool_seconds: float = 0.0
    """Seconds of each tool call. Used by the engine only."""

    @property
    def sampled(self) -> int:
        return self.dialogues * self.turns * self.turn_tokens

    @property
    def context(self) -> int:
        return self.prompt_tokens + self.turns * (self.turn_tokens + self.tool_tokens)


@dataclass(frozen=True, slots=True)
class Sampled:
    """Measured time and memory."""

    seconds: float
    cpu_seconds: float
    peak_mb: float
    """Peak memory in MB above the loaded model."""
    tokens: int
    """Number of sampled tokens."""
    idle: float = 0.0
    """Fraction of the time from the first to the last dialogue in which the engine was idle."""


def by_engine(load: Load, model: Any, chat: Chat) -> tuple[int, float]:
    """Sample with the engine. Return the number of sampled tokens and the idle fraction."""
    chat.stop_ids = frozenset()
    bare_prompt = len(chat.open([Message("user", "")]))
    bare_answer = len(chat.observe([Message("user", "")], closed=False))

    def play(policy: Any, number: int) -> int:
        rng = random.Random(number // load.group)
        dialogue = policy.open(
            [Message("user", words(load.prompt_tokens - bare_prompt, rng))], seed=number
        )
        for turn in range(load.turns):
            dialogue.reply()
            if turn < load.turns - 1:
                time.sleep(load.tool_seconds)
                dialogue.observe([Message("user", words(load.tool_tokens - bare_answer, rng))])
        trace = dialogue.trace()
        assert len(trace.token_ids) == load.context - load.tool_tokens
        return sum(trace.loss_mask)

    with InProcessEngine(model, chat, max_context=load.context, max_batch=load.dialogues) as engine:
        engine.load_adapter(model)
        policy = engine.policy(max_new_tokens=load.turn_tokens, group_size=load.group)
        with ThreadPoolExecutor(load.dialogues) as pool:
            opened = time.perf_counter()
            tokens = sum(pool.map(lambda number: play(policy, number), range(load.dialogues)))
            seconds = time.perf_counter() - opened
        return tokens, 1 - engine.statistics.seconds_busy / seconds


@torch.inference_mode()
def by_generate(load: Load, model: Any) -> int:
    drawn = lambda *size: torch.randint(1, model.config.vocab_size, size)
    history = drawn(load.dialogues // load.group, load.prompt_tokens).repeat_interleave(
        load.group, dim=0
    )
    for turn in range(load.turns):
        history = model.generate(
            input_ids=history,
            attention_mask=torch.ones_like(history),
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            min_new_tokens=load.turn_tokens,
            max_new_tokens=load.turn_tokens,
            pad_token_id=0,
        )
        if turn < load.turns - 1:
            history = torch.cat([history, drawn(load.dialogues, load.tool_tokens)], dim=1)
    assert history.shape == (load.dialogues, load.context - load.tool_tokens)
    return load.sampled


@torch.inference_mode()
def by_products(load: Load, model: Any) -> int:
    head = model.get_output_embeddings().weight
    layers = [
        module.weight
        for name, module in model.named_modules()
        if type(module) is torch.nn.Linear and module.weight is not head
    ]

    def products(tokens: int, *, with_head: bool) -> None:
        inputs = {
            width: torch.ones(tokens, width)
            for width in {weight.shape[1] for weight in layers} | {head.shape[1]}
        }
        for weight in [*layers, *([head] if with_head else [])]:
            torch.nn.functional.linear(inputs[weight.shape[1]], weight)

    for _ in range(load.turns * load.turn_tokens):
        products(load.dialogues, with_head=True)
    others = (
        load.dialogues // load.group * load.prompt_tokens
        + load.dialogues * (load.turns - 1) * load.tool_tokens
    )
    for start in range(0, others, 512):
        products(min(512, others - start), with_head=False)
    return load.sampled


def main(load: Load, name: str, threads: int) -> Sampled:
    torch.set_num_threads(threads)
    base, tokenizer = load_model(name, device="cpu", dtype=torch.float32)
    model = base if load.side == "products" else attach_lora(base, rank=16, alpha=32, seed=0).eval()
    model.requires_grad_(False)
    with torch.inference_mode():
        # Load the pages of the model file into memory.
        base(torch.ones(1, 2, dtype=torch.long))
    before = peak_mb()
    clock = Clock()
    if load.side == "engine":
        tokens, idle = by_engine(load, model, Chat(tokenizer, model=base))
    else:
        tokens = {"generate": by_generate, "products": by_products}[load.side](load, model)
        idle = 0.0
    seconds, cpu_seconds = clock.read()
    return Sampled(seconds, cpu_seconds, peak_mb() - before, tokens, idle)


if __name__ == "__main__":
    print(json.dumps(asdict(main(Load(**json.loads(sys.argv[1])), sys.argv[2], int(sys.argv[3])))))
