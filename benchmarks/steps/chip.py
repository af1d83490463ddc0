"""Measure one architecture on one device.  python -m steps.chip SIZE DEVICE DTYPE [quick]

Prints JSON: the device's rates (bytes copied and operations a second) and the speed of sampler and
learner. Weights are random.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
import transformers

from envgym.messages import Message
from envgym_trainer.inference.in_process.engine import InProcessEngine
from envgym_trainer.learner.learner import Learner
from envgym_trainer.learner.update_settings import UpdateSettings
from envgym_trainer.model.chat import Chat
from envgym_trainer.model.load import load_model
from envgym_trainer.model.lora import attach_lora
from steps.learn import Group, samples
from steps.work import Clock, peak_mb

ARCHITECTURES: dict[str, tuple[str, dict[str, int]]] = {
    "0.5B": (
        "Qwen2Config",
        {
            "hidden_size": 896,
            "intermediate_size": 4864,
            "num_hidden_layers": 24,
            "num_attention_heads": 14,
            "num_key_value_heads": 2,
            "vocab_size": 151936,
        },
    ),
    "1.5B": (
        "Qwen2Config",
        {
            "hidden_size": 1536,
            "intermediate_size": 8960,
            "num_hidden_layers": 28,
            "num_attention_heads": 12,
            "num_key_value_heads": 2,
            "vocab_size": 151936,
        },
    ),
    "4B": (
        "Qwen3Config",
        {
            "hidden_size": 2560,
            "intermediate_size": 9728,
            "num_hidden_layers": 36,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "vocab_size": 151936,
        },
    ),
    "miniature": (
        "Qwen2Config",
        {
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "vocab_size": 2048,
        },
    ),
}
"""Shapes of Qwen2.5-0.5B, Qwen2.5-1.5B and Qwen3-4B, and a miniature for a CPU."""


@dataclass
class Decoding:
    """Decoding speed for a number of simultaneous dialogues."""

    dialogues: int
    tokens_per_second: float
    limit: float
    """Tokens a second if all weights, keys and values are read once per token."""


@dataclass
class Chip:
    """Measured rates and speeds of a device."""

    size: str
    device: str
    gigabytes_per_second: float
    teraflops: float
    decoding: list[Decoding] = field(default_factory=list)
    train_tokens_per_second: float = 0.0
    mfu: float = 0.0
    """Fraction of the measured rate, at four operations per parameter and token.

    Frozen weights have no gradient, so it is four and not six.
    """
    peak_mb: float = 0.0
    versions: str = ""


def random_model(size: str, device: str, dtype: torch.dtype) -> Any:
    kind, numbers = ARCHITECTURES[size]
    config = getattr(transformers, kind)(
        **numbers, tie_word_embeddings=True, max_position_embeddings=4096
    )
    with torch.device(device):
        return (
            transformers.AutoModelForCausalLM.from_config(config, dtype=dtype)
            .eval()
            .requires_grad_(False)
        )


def rate(work: Callable[[], Any], *, rounds: int) -> float:
    """Return how often a second `work` can run (median)."""
    work()
    seconds = []
    for _ in range(rounds):
        clock = Clock()
        work()
        seconds.append(clock.read()[0])
    return 1 / statistics.median(seconds)


def bytes_per_second(device: str, *, megabytes: int) -> float:
    source = torch.empty(megabytes * 2**20, dtype=torch.uint8, device=device).fill_(1)
    target = torch.empty_like(source)
    return 2 * source.numel() * rate(lambda: target.copy_(source), rounds=10)


def operations_per_second(device: str, dtype: torch.dtype, *, width: int) -> float:
    left, right = (torch.ones(width, width, device=device, dtype=dtype) for _ in range(2))
    return 2 * width**3 * rate(lambda: left @ right, rounds=10)


def decode(model: Any, chat: Chat, dialogues: int, *, tokens: int, bandwidth: float) -> Decoding:
    """Measure `tokens` decoding steps as the difference between long and short responses."""
    prompts = [
        [Message("user", f"dialogue {number}: " + "say something about it. " * 8)]
        for number in range(dialogues)
    ]

    def play(engine: InProcessEngine, count: int) -> float:
        policy = engine.policy(max_new_tokens=count)
        clock = Clock()
        with ThreadPoolExecutor(dialogues) as pool:
            opened = list(
                pool.map(lambda number: policy.open(prompts[number], seed=number), range(dialogues))
            )
            list(pool.map(lambda dialogue: dialogue.reply(), opened))
        seconds = clock.read()[0]
        for dialogue in opened:
            dialogue.close()
        return seconds

    length = max(len(chat.open(prompt)) for prompt in prompts)
    with InProcessEngine(
        model, chat, max_context=length + tokens + 16, max_batch=dialogues
    ) as engine:
        # The KV cache now has its final size.
        play(engine, 8 + tokens)
        seconds = play(engine, 8 + tokens) - play(engine, 8)
    config = model.config
    size = model.dtype.itemsize
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    held = (
        2
        * config.num_hidden_layers
        * config.num_key_value_heads
        * head
        * size
        * dialogues
        * (length + 8 + tokens // 2)
    )
    weights = sum(parameter.numel() for parameter in model.parameters()) * size
    return Decoding(
        dialogues, dialogues * tokens / seconds, dialogues * bandwidth / (weights + held)
    )


def train(model: Any, group: Group, operations: float) -> tuple[float, float]:
    """Return tokens a second through the model, and the fraction of the device's operations."""
    adapted = attach_lora(model, rank=16, alpha=32, seed=0)
    learner = Learner(adapted, max_tokens_per_micro_batch=16384)
    work = samples(group, model.config.vocab_size)
    settings = UpdateSettings(learning_rate=1e-5)
    tokens = learner.update(work, settings)["batch/forward_tokens"]
    steps = rate(lambda: learner.update(work, settings), rounds=3)
    head = model.get_output_embeddings().weight.numel()
    body = sum(p.numel() for name, p in model.named_parameters() if "lora_" not in name) - head
    return tokens * steps, 4 * (
        body * tokens + head * group.size * group.response
    ) * steps / operations


def main(size: str, device: str, dtype: torch.dtype, *, quick: bool) -> Chip:
    torch.manual_seed(0)
    bandwidth = bytes_per_second(device, megabytes=16 if quick else 1024)
    operations = operations_per_second(device, dtype, width=256 if quick else 8192)
    found = Chip(size, device, bandwidth / 1e9, operations / 1e12)
    model = random_model(size, device, dtype)
    (_, tokenizer) = load_model("tiny", device="cpu")
    chat = Chat(tokenizer, model=model)
    chat.stop_ids = frozenset()
    for dialogues in (1, 4) if quick else (1, 16, 64, 256):
        found.decoding.append(
            decode(model, chat, dialogues, tokens=8 if quick else 64, bandwidth=bandwidth)
        )
    group = Group("tree", 24, 8, 4) if quick else Group("tree", 512, 128, 16)
    found.train_tokens_per_second, found.mfu = train(model, group, operations)
    found.peak_mb = peak_mb(device)
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    found.versions = f"{name}, torch {torch.__version__}, transformers {transformers.__version__}"
    return found


if __name__ == "__main__":
    print(
        json.dumps(
            asdict(
                main(
                    sys.argv[1], sys.argv[2], getattr(torch, sys.argv[3]), quick="quick" in sys.argv
                )
            )
        )
    )
