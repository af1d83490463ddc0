"""The `train.model` and `train.lora` blocks: the base model and its adapter."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from envgym.block import Block


class ModelConfig(Block):
    """The frozen base model."""

    name: str = "smollm2-135m-instruct"
    """Built-in name (smollm2-135m-instruct, tiny), Hugging Face id or local directory."""
    device: str = "auto"
    """Device: auto, cpu, cuda or cuda:N."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Data type of the base model. auto: float32 on a CPU, bfloat16 on a GPU. The adapter is always
    float32."""
    quantize: Literal["none", "4bit"] = "none"
    """Quantization of the base's linear layers during training. 4bit: NF4; needs bitsandbytes, see
    `pip install 'envgym[quantize]'`."""


class LoraConfig(Block):
    rank: int = Field(default=16, ge=1)
    """Rank of the adapter. vLLM supports 1, 8, 16, 32, 64, 128, 256, 320 and 512."""
    alpha: float = Field(default=32.0, gt=0)
    """Scale: the output of the adapter is multiplied by alpha / rank. Above 0."""
    targets: str | tuple[str, ...] = "all-linear"
    """Adapted layers: `all-linear` (all but the output head), or names such as q_proj."""
    use_rslora: bool = False
    """Multiply by alpha / sqrt(rank) instead, so that a high rank does not weaken the adapter."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout of the adapter's inputs during training. 0 to below 1. Above 0 the learner's
    probabilities differ from those of sampling, and the gradient depends on the micro-batches; a
    warning reports it."""
    use_dora: bool = False
    """Train the norm of each row of the adapted weights as well (DoRA). No server loads such an
    adapter; needs `output.adapter: none`."""
    bias: Literal["none", "lora_only", "all"] = "none"
    """Trained biases: none, those of adapted layers, or all. No server loads them; needs
    `output.adapter: none`."""
    modules_to_save: tuple[str, ...] = ()
    """Modules to train whole, such as norm; never the output head. No server loads them; needs
    `output.adapter: none`."""
