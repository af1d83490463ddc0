"""Preflight check of memory: an estimate from the model's sizes against the free memory.

Activations are calibrated on SmolLM2-135M (1 MB a token in float32) and may be wrong by up to half
for other models. Therefore a run is refused only if its minimum does not fit, with a warning if its
maximum does not.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from envgym.evaluation.checks.fixture import CheckResult
from envgym_trainer.inference.in_process.packed_linear import can_pack
from envgym_trainer.model.lora import lora_layers
from envgym_trainer.preflight.context import PreflightContext

OVERHEAD = 1.25
"""Measured over counted bytes of activations for SmolLM2-135M."""
GIB = 2**30


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes that determine the additional memory of a run. Counts and bytes."""

    layers: int
    hidden: int
    intermediate: int
    vocabulary: int
    kv_bytes_a_token: int
    """Keys and values of one token in all layers."""
    dtype_bytes: int
    adapter_numbers: int
    copied_bytes: int
    """Weights that the sampler copies: adapted layers, and the head if it is packed."""

    @classmethod
    def of(cls, model: Any) -> Sizes:
        """Return the sizes of a PEFT model."""
        config = model.config
        layers = lora_layers(model).values()
        embedding = model.get_input_embeddings().weight
        dtype_bytes = embedding.element_size()
        packed_head = (
            config.hidden_size * config.vocab_size * dtype_bytes if can_pack(embedding) else 0
        )
        head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return cls(
            config.num_hidden_layers,
            config.hidden_size,
            config.intermediate_size,
            config.vocab_size,
            2 * config.num_hidden_layers * config.num_key_value_heads * head * dtype_bytes,
            dtype_bytes,
            sum(weight.numel() for weight in model.parameters() if weight.requires_grad),
            sum(layer.in_features * layer.out_features * dtype_bytes for layer in layers)
            + packed_head,
        )


def estimate(
    sizes: Sizes, *, train_tokens: int, sampled_tokens: int, overhead: float = OVERHEAD
) -> dict[str, float]:
    """Return the bytes that a run adds to the loaded base, by purpose. See `at_once` for the peak.

    Args:
        sizes: Sizes of the model.
        train_tokens: Tokens of the largest micro-batch.
        sampled_tokens: Tokens in all rows of the sampler's cache.
        overhead: Factor of the counted activations; 1 for the minimum.
    """
    # Kept per layer and token for the backward pass, without keys and values.
    kept = 5 * sizes.hidden + 2 * sizes.intermediate
    # Recomputed for one layer at a time, in float32.
    again = 12 * sizes.hidden + 4 * sizes.intermediate
    a_token = sizes.layers * kept * sizes.dtype_bytes + sizes.kv_bytes_a_token + 4 * again
    return {
        "sampler's weights": float(sizes.copied_bytes),
        "adapter, gradient, Adam": 16.0 * sizes.adapter_numbers,
        "activations": overhead * train_tokens * a_token,
        "logits": 3.0 * 256 * sizes.vocabulary * 4,
        "keys and values": float(sampled_tokens * sizes.kv_bytes_a_token),
    }


def at_once(parts: dict[str, float], *, one_step_ahead: bool = False) -> float:
    """Return the peak of these parts. Unless one step ahead, the engine sleeps in training."""
    if one_step_ahead:
        return sum(parts.values())
    sampling = parts["sampler's weights"] + parts["keys and values"]
    return parts["adapter, gradient, Adam"] + max(sampling, parts["activations"] + parts["logits"])


def memory(subject: PreflightContext) -> CheckResult:
    """Check the minimum and maximum additional memory of the run against the free memory."""
    config = subject.config
    sizes = Sizes.of(subject.model)
    episodes = config.rollout.groups_per_step * config.rollout.group_size
    rows = min(config.rollout.max_concurrent_episodes, episodes)
    typical = min(
        config.rollout.max_context_tokens,
        max(
            (len(e.tokens.token_ids) for e in subject.demos if e.tokens),
            default=config.rollout.max_context_tokens,
        ),
    )
    least_tokens = min(
        config.optimizer.micro_batch_tokens, config.rollout.groups_per_step * typical
    )
    least = estimate(sizes, train_tokens=least_tokens, sampled_tokens=rows * typical, overhead=1.0)
    most = estimate(
        sizes,
        train_tokens=max(config.optimizer.micro_batch_tokens, config.rollout.max_context_tokens),
        sampled_tokens=config.rollout.max_concurrent_episodes * config.rollout.max_context_tokens,
    )
    low, high = (
        at_once(parts, one_step_ahead=config.rollout.one_step_ahead) for parts in (least, most)
    )
    free = available_bytes(subject.model)
    told = (
        f"{low / GIB:.1f} to {high / GIB:.1f} GiB in addition to the loaded model, "
        f"{free / GIB:.1f} GiB free"
    )
    if high <= free:
        return CheckResult("memory", True, told)
    culprit = max(most if low <= free else least, key=(most if low <= free else least).__getitem__)
    return CheckResult(
        "memory", low <= free, f"{told}; largest: {culprit}. {REMEDY}", warning=low <= free
    )


REMEDY = (
    "Lower train.optimizer.micro_batch_tokens, train.rollout.max_concurrent_episodes or "
    "train.rollout.max_context_tokens, or set train.model.quantize=4bit"
)


def available_bytes(model: Any) -> float:
    """Return the free memory of the model's device. On a CPU the cgroup's limit is respected."""
    device = model.get_input_embeddings().weight.device
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    return min(_free_in_system(), _free_in_group())


def _free_in_system() -> float:
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        found = [
            line.split()[1]
            for line in meminfo.read_text().splitlines()
            if line.startswith("MemAvailable:")
        ]
        if found:
            return 1024.0 * int(found[0])
    # All memory, if the free memory is unknown.
    return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def _free_in_group(root: Path = Path("/sys/fs/cgroup")) -> float:
    """Return the memory left by the cgroup v2 limit, or infinity without a limit.

    File pages count as free, because the kernel can reclaim them.
    """
    try:
        limit = (root / "memory.max").read_text().strip()
        used = int((root / "memory.current").read_text())
        cached = next(
            int(line.split()[1])
            for line in (root / "memory.stat").read_text().splitlines()
            if line.startswith("file ")
        )
    except (OSError, ValueError, StopIteration):
        return float("inf")
    return float("inf") if limit == "max" else float(int(limit) - used + cached)
