"""A base in 4 bits (NF4) with a 16- or 32-bit adapter over it, after QLoRA (arXiv 2305.14314, sec. 3), by bitsandbytes.

The trained model multiplies by the very weights that NF4 stands for. The sampler merges the adapter into those weights, so
both see the same numbers; its copy of the layers is not in 4 bits. Memory for a base of N parameters: N/2 bytes for the
trained model and 2N (bfloat16) for the sampler's copy, against 2N and 2N without.
Tested with bitsandbytes' CPU backend. Not tested: CUDA.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from torch import Tensor

from envgym.errors import PrerequisiteError

INSTALL = "Install it: pip install 'envgym[quantize]', or leave train.lora.quantize=none."


def require() -> None:
    """Raises PrerequisiteError where bitsandbytes is not installed or does not load."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise PrerequisiteError(
            f"train.lora.quantize=4bit needs bitsandbytes, which is not installed. {INSTALL}"
        )
    try:
        import bitsandbytes  # type: ignore[import-not-found]  # noqa: F401
    except Exception as error:  # its native library raises whatever its loader does
        raise PrerequisiteError(
            f"train.lora.quantize=4bit: bitsandbytes does not load here: {error}. {INSTALL}"
        ) from error


def load_options(device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """What `from_pretrained` needs to load a base in 4 bits onto a device; `dtype` is that of the multiplication."""
    require()
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
    )
    return {"quantization_config": config, "device_map": {"": str(device)}}


def is_4bit(weight: object) -> bool:
    """Whether a linear layer's weight is kept in 4 bits."""
    return getattr(weight, "quant_state", None) is not None


def dense_weight(weight: Tensor) -> Tensor:
    """(n, m) weight of a linear layer: the very tensor, or freshly widened from 4 bits."""
    if not is_4bit(weight):
        return weight
    from bitsandbytes.functional import dequantize_4bit  # type: ignore[import-not-found]

    return dequantize_4bit(weight.data, weight.quant_state)  # type: ignore[attr-defined]
