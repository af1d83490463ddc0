"""4-bit base model (NF4) with a 16- or 32-bit adapter, by bitsandbytes.

The trained model computes with the values that NF4 represents. The sampler merges the adapter into
the same values, but its copy of the layers is not in 4 bits. A base of N parameters needs N/2 bytes
for the trained model and 2N (bfloat16) for the sampler's copy, instead of 2N and 2N.
Tested with bitsandbytes' CPU backend, not with CUDA. Source: QLoRA, arXiv 2305.14314, sec. 3.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from torch import Tensor

from envgym.errors import PrerequisiteError

INSTALL = "Install it: pip install 'envgym[quantize]', or set train.model.quantize=none."


def require() -> None:
    """Check that bitsandbytes can be used.

    Raises:
        PrerequisiteError: If bitsandbytes is not installed or cannot be loaded.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise PrerequisiteError(
            f"train.model.quantize=4bit needs bitsandbytes, which is not installed. {INSTALL}"
        )
    try:
        import bitsandbytes  # type: ignore[import-not-found]  # noqa: F401
    except Exception as error:
        # The loader of the native library raises errors of many types.
        raise PrerequisiteError(
            f"train.model.quantize=4bit: bitsandbytes cannot be loaded: {error}. {INSTALL}"
        ) from error


def load_options(device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Return the options of `from_pretrained` for a 4-bit base.

    Args:
        device: Device of the weights.
        dtype: Data type of the multiplication.
    """
    require()
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
    )
    return {"quantization_config": config, "device_map": {"": str(device)}}


def is_4bit(weight: object) -> bool:
    """Return whether a linear layer's weight is stored in 4 bits."""
    return getattr(weight, "quant_state", None) is not None


def dense_weight(weight: Tensor) -> Tensor:
    """Return the weight of a linear layer, shape (n, m), dequantized if it is stored in 4 bits."""
    if not is_4bit(weight):
        return weight
    from bitsandbytes.functional import dequantize_4bit  # type: ignore[import-not-found]

    return dequantize_4bit(weight.data, weight.quant_state)  # type: ignore[attr-defined]
