"""A policy with fixed ids, an environment that echoes a nonce, and samples, for the trap suite."""

import random
import time

import gymnasium
import torch

from envgym.playing import play
from envgym_trainer.batch import Sample
from envgym_trainer.inference.in_process import token_sampling as sampling
from envgym_trainer.inference.in_process.engine import InProcessEngine
from envgym_trainer.model.chat import Chat
from envgym_trainer.model.lora import attach_lora
from tests.fakes.small_models import byte_tokenizer, small_llama


class NonceEnv(gymnasium.Env):
    """Foreign environment that returns its nonce at reset and after each answer.

    It records every answer; `delay` is the maximum random duration of a step in seconds.
    """

    def __init__(self, *, turns: int = 2, delay: float = 0.0):
        self.turns = turns
        self.delay = delay
        self.heard: list[str] = []

    def reset(self, *, seed=None, options=None):
        self.nonce = (options or {}).get("task", "") or f"seed-{seed}"
        self.heard = []
        return f"<{self.nonce}>", {"task": {"id": self.nonce}, "state_hash": self.nonce}

    def step(self, action):
        if self.delay:
            time.sleep(random.random() * self.delay)
        self.heard.append(action)
        over = len(self.heard) >= self.turns
        info = {"state_diff": {"nonce": self.nonce, "heard": list(self.heard)}}
        return f"<{self.nonce}>", 1.0, over, False, info


def byte_engine(*, adapter_std: float = 0.3, seed: int = 0, **options):
    """Return (adapted model, its engine): a two-layer Llama over bytes, float32."""
    tokenizer = byte_tokenizer()
    model = small_llama(tokenizer)
    adapted = attach_lora(model, rank=4, alpha=8, seed=seed)
    scramble(adapted, seed, std=adapter_std)
    engine = InProcessEngine(
        adapted, Chat(tokenizer, model=model), **{"max_context": 600, "max_batch": 16, **options}
    )
    engine.load_adapter(adapted)
    return adapted, engine


def scramble(adapted, seed: int, *, std: float = 0.3) -> None:
    """Overwrite the adapter with random weights."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.normal_(0.0, std)


def say(monkeypatch, ids):
    """Make the sampler draw these ids, whatever the logits are."""
    script = iter(ids)

    def scripted(logits, temperatures, uniforms):
        drawn = torch.tensor([next(script) for _ in range(len(logits))])
        return drawn, logits.float().log_softmax(-1).gather(1, drawn[:, None])[:, 0]

    monkeypatch.setattr(sampling, "sample", scripted)


def samples_from(
    engine, *, count: int = 6, turns: int = 2, temperature: float = 1.0, tokens: int = 8
) -> list[Sample]:
    """Return samples of real dialogues with advantages that alternate between 1 and -1."""
    policy = engine.policy(temperature=temperature, max_new_tokens=tokens)
    episodes = [
        play(NonceEnv(turns=turns), policy, seed=seed, task=f"task {seed % 2}")
        for seed in range(count)
    ]
    return [
        Sample.from_trace(episode.tokens, advantage=(-1.0) ** n)
        for n, episode in enumerate(episodes)
    ]


def scored_ids(batch) -> list[list[int]]:
    """Return the ids that a batch trains on, for each sample in token order."""
    found: dict[int, list[int]] = {}
    for node, index in zip(batch.action_nodes.tolist(), batch.action_samples.tolist(), strict=True):
        found.setdefault(index, []).append(int(batch.score_ids[node]))
    return [found[index] for index in sorted(found)]
