"""What inference servers refuse in a LoRA adapter, told before anything is trained and again when it is written.

Plain Python, so that the check of a YAML costs nothing. The rules are vLLM's, the strictest: `LoRAConfig` and `PEFTHelper`,
https://docs.vllm.ai/en/latest/features/lora.html.
Left out: which layer names a server knows (it depends on the model's architecture).
"""

from __future__ import annotations

from collections.abc import Sequence

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The ranks that vLLM has room for; an adapter of another one takes the room of the next."""


def refusals(
    *, rank: int, dora: bool = False, bias: str = "none", modules_to_save: Sequence[str] = ()
) -> list[str]:
    """Why servers would not load such an adapter, one sentence each; empty when they do.

    Args:
        rank: of the two factors.
        dora, bias, modules_to_save: as in PEFT's `LoraConfig` (`dora` is its `use_dora`).
    """
    found = []
    if rank not in RANKS:
        fitting = next((known for known in RANKS if known >= rank), RANKS[-1])
        found.append(
            f"rank {rank} is none of the ranks that vLLM serves ({', '.join(map(str, RANKS))}); take {fitting}"
        )
    if dora:
        found.append("vLLM and llama.cpp do not load DoRA (dora: true); leave it out")
    if bias != "none":
        found.append(f"vLLM refuses trained biases (bias: {bias}); take bias: none")
    if modules_to_save:
        found.append(
            f"vLLM refuses modules saved whole (modules_to_save: {', '.join(modules_to_save)}); adapt them by `targets`"
        )
    return found
