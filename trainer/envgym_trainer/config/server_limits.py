"""What inference servers refuse in a LoRA adapter, checked before training and at export.

The rules are those of vLLM, the strictest: `LoRAConfig` and `PEFTHelper`,
https://docs.vllm.ai/en/latest/features/lora.html. Not supported: the layer names that a server
supports, which depend on the model's architecture.
"""

from __future__ import annotations

from collections.abc import Sequence

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Ranks that vLLM supports (`--max-lora-rank`)."""


def refusals(
    *, rank: int, dora: bool = False, bias: str = "none", modules_to_save: Sequence[str] = ()
) -> list[str]:
    """Return why servers would refuse an adapter, one sentence a reason; empty if they load it.

    Args:
        rank: Rank of the adapter.
        dora: Whether the adapter uses DoRA (`use_dora` of PEFT).
        bias: Trained biases, as in PEFT's `LoraConfig`.
        modules_to_save: Modules that are saved whole, as in PEFT's `LoraConfig`.
    """
    found = []
    if rank not in RANKS:
        fitting = next((known for known in RANKS if known >= rank), RANKS[-1])
        supported = ", ".join(map(str, RANKS))
        found.append(f"vLLM does not support rank {rank}, only {supported}; use {fitting}")
    if dora:
        found.append("vLLM and llama.cpp do not load DoRA (use_dora: true); leave it out")
    if bias != "none":
        found.append(f"vLLM refuses trained biases (bias: {bias}); use bias: none")
    if modules_to_save:
        found.append(
            f"vLLM refuses modules saved whole (modules_to_save: {', '.join(modules_to_save)}); "
            "adapt them by `targets`"
        )
    return found


def max_lora_rank(rank: int) -> int:
    """Return a value of vLLM's `--max-lora-rank` for an adapter of this rank: 8 or more.

    Raises:
        ValueError: If the rank is above the largest that vLLM supports.
    """
    found = next((limit for limit in RANKS if limit >= max(rank, 2)), None)
    if found is None:
        raise ValueError(
            f"LoRA rank {rank}: vLLM supports at most {RANKS[-1]}. "
            f"Train with train.lora.rank={RANKS[-1]} or less."
        )
    return found
