"""LoRA adapters: attach with PEFT, read the tensors, merge into copies of the base weights.

Settings that servers do not support need `output.adapter: none`. Not supported: adapting `lm_head`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from envgym.errors import UsageError
from envgym_trainer.model.quantize import dense_weight, is_4bit


def attach_lora(
    model: Any,
    *,
    rank: int,
    alpha: float,
    seed: int,
    dropout: float = 0.0,
    targets: str | Sequence[str] = "all-linear",
    use_rslora: bool = False,
    use_dora: bool = False,
    bias: Any = "none",
    modules_to_save: Sequence[str] = (),
) -> Any:
    """Return the model with a new adapter. Its product is 0 until it is trained.

    Args:
        model: Causal language model. PEFT wraps its linear layers in place and freezes the rest.
        rank: Rank of the two factors.
        alpha: The adapter is scaled by `alpha / rank`.
        seed: Seed of the first factor. The global random state is not changed.
        dropout: Dropout of the adapter's input in training. 0 keeps sampled and trained logprobs
            equal.
        targets: `all-linear` (all linear layers except `lm_head`) or names of modules.
        use_rslora: Scale by `alpha / sqrt(rank)` instead (arXiv 2312.03732, theorem 3.2).
        use_dora: Train a magnitude for each row of the adapted weight (arXiv 2402.09353, eq. 5).
        bias: Trained biases: none, lora_only (biases of adapted layers) or all.
        modules_to_save: Names of modules that are trained in full.

    Returns:
        A `peft.PeftModel`. The adapter is float32 for any base.

    >>> from envgym_trainer import load_model
    >>> model, _ = load_model("tiny", device="cpu")
    >>> attach_lora(model, rank=8, alpha=16, seed=0).peft_type.value
    'LORA'
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=rank,
        lora_dropout=dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        lora_alpha=alpha,  # type: ignore[arg-type]  # PEFT's own files have a float
        use_rslora=use_rslora,
        use_dora=use_dora,
        bias=bias,
        modules_to_save=list(modules_to_save) or None,
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message=".*is_gradient_checkpointing", category=FutureWarning
        )  # raised by PEFT's use of transformers
        torch.manual_seed(seed)
        return get_peft_model(model, config)


def training_mode(model: Any) -> None:
    """Set evaluation mode, except for the adapter's dropout. The base's dropout is never used."""
    from peft.tuners.lora import LoraLayer

    model.eval()
    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.lora_dropout.train()


def trainable(model: Any) -> dict[str, Tensor]:
    """Return the trainable parameters by name."""
    return {name: value for name, value in model.named_parameters() if value.requires_grad}


@contextmanager
def with_adapter(parameters: Mapping[str, Tensor], adapter: Mapping[str, Tensor]) -> Iterator[None]:
    """Set the parameters to the adapter's values while in the block."""
    own = {name: value.detach().clone() for name, value in parameters.items()}
    _put(parameters, adapter)
    try:
        yield
    finally:
        _put(parameters, own)


@torch.no_grad()
def _put(parameters: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    for name, value in parameters.items():
        value.copy_(values[name])


def lora_state(model: Any) -> dict[str, Tensor]:
    """Return the adapter's tensors by their names in its file, detached copies on the CPU."""
    from peft import get_peft_model_state_dict

    # By default PEFT asks the hub whether the vocabulary has grown. Embeddings are never adapted.
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    return {name: tensor.detach().cpu().clone() for name, tensor in state.items()}


def lora_layers(model: Any) -> dict[str, Any]:
    """Return PEFT's LoRA layers by their name in the base model.

    Raises:
        UsageError: If there is no LoRA layer, or one that `merge` does not support.
    """
    from peft.tuners.lora import Linear, LoraLayer
    from peft.tuners.lora.variants import DoraLinearVariant

    found = {
        name: module
        for name, module in model.get_base_model().named_modules()
        if isinstance(module, LoraLayer)
    }
    for name, layer in found.items():
        odd = [
            variant
            for variant in layer.lora_variant.values()
            if not isinstance(variant, DoraLinearVariant)
        ]
        if (
            not (isinstance(layer, Linear) or is_4bit(layer.get_base_layer().weight))
            or odd
            or any(layer.lora_bias.values())
        ):
            raise UsageError(
                f"{name}: only LoRA and DoRA on linear layers are supported in sampling, not "
                f"{type(layer).__name__} with a variant."
            )
        if layer.merged or len(layer.active_adapters) != 1:
            raise UsageError(
                f"{name}: expected one active, unmerged adapter; merged: {layer.merged}, active: "
                f"{layer.active_adapters}."
            )
    if not found:
        raise UsageError(
            "this model has no LoRA layer. Attach an adapter first: attach_lora(model, rank=16, "
            "alpha=32, seed=0)."
        )
    return found


@torch.no_grad()
def merge(layer: Any) -> Tensor:
    """Return W + scale * B @ A of one layer as a new tensor in W's dtype, rounded once.

    W is only read. A 4-bit W is converted to a dense one first. With DoRA each row V of the sum is
    scaled to its trained magnitude m: m * V / |V|.

    Args:
        layer: LoRA layer of PEFT over a linear layer of weight (n, m).

    Returns:
        Merged weight, shape (n, m).
    """
    name = layer.active_adapters[0]
    weight = dense_weight(layer.get_base_layer().weight)
    a = layer.lora_A[name].weight
    b = layer.lora_B[name].weight
    merged = torch.addmm(weight.to(b.dtype), b, a, alpha=layer.scaling[name])
    if name in layer.lora_variant:
        length = layer.lora_magnitude_vector[name].weight  # (n,)
        merged *= (length / merged.norm(dim=1)).unsqueeze(1)
    return merged.to(weight.dtype)


def merged_weights(model: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield (name of the weight in the base model, merged weight) of every adapted layer."""
    for name, layer in lora_layers(model).items():
        yield f"{name}.weight", merge(layer)
