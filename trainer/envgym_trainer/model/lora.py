"""The adapter: attached with PEFT, read out, and added to fresh copies of the base weights.

What servers refuse (`serving.py`) is trained only where nothing is exported. Left out: an adapted `lm_head`.
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


def attach(
    model: Any,
    *,
    rank: int,
    alpha: float,
    seed: int,
    dropout: float = 0.0,
    targets: str | Sequence[str] = "all-linear",
    rslora: bool = False,
    dora: bool = False,
    bias: Any = "none",
    modules_to_save: Sequence[str] = (),
) -> Any:
    """The model with a new adapter, whose product is zero until it is trained.

    Args:
        model: a causal language model; PEFT wraps its linear layers in place and freezes everything else.
        rank: of the two factors.
        alpha: the adapter counts `alpha / rank` times.
        seed: fixes the first factor; the global random state is left as it was.
        dropout: of the adapter's input while training; 0 keeps sampled and trained logprobs equal.
        targets: `all-linear` (all linear layers but `lm_head`) or names of modules.
        rslora: the adapter counts `alpha / sqrt(rank)` times (arXiv 2312.03732, theorem 3.2).
        dora: a trained length for each row of the adapted weight (arXiv 2402.09353, eq. 5).
        bias: biases that are trained as well: none, lora_only (of adapted layers) or all.
        modules_to_save: names of modules that are trained whole.
    Returns: a `peft.PeftModel`; the adapter is float32 whatever the base is.
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=rank,
        lora_dropout=dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        lora_alpha=alpha,  # type: ignore[arg-type]  # a float in every file that PEFT writes and reads
        use_rslora=rslora,
        use_dora=dora,
        bias=bias,
        modules_to_save=list(modules_to_save) or None,
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message=".*is_gradient_checkpointing", category=FutureWarning
        )  # PEFT's, of transformers
        torch.manual_seed(seed)
        return get_peft_model(model, config)


def training_mode(model: Any) -> None:
    """Evaluation mode but for the adapter's own dropout, where it has one: what the base drops is never trained with."""
    from peft.tuners.lora import LoraLayer

    model.eval()
    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.lora_dropout.train()


def trainable(model: Any) -> dict[str, Tensor]:
    """The parameters that are trained, by name."""
    return {name: value for name, value in model.named_parameters() if value.requires_grad}


@contextmanager
def with_adapter(parameters: Mapping[str, Tensor], adapter: Mapping[str, Tensor]) -> Iterator[None]:
    """While in the block the parameters have the adapter's values, then their own again."""
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
    """The adapter's tensors by the names that its file uses, detached copies on the CPU."""
    from peft import get_peft_model_state_dict

    # Left to itself PEFT asks the hub whether the vocabulary has grown; embeddings are never adapted here.
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    return {name: tensor.detach().cpu().clone() for name, tensor in state.items()}


def lora_layers(model: Any) -> dict[str, Any]:
    """PEFT's LoRA layers by their name in the base model.

    Raises: UsageError for an adapter that `merge` does not describe.
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
                f"{name}: only LoRA and DoRA on linear layers can be sampled from, not {type(layer).__name__} with a variant."
            )
        if layer.merged or len(layer.active_adapters) != 1:
            raise UsageError(
                f"{name}: expected one active, unmerged adapter; merged: {layer.merged}, active: {layer.active_adapters}."
            )
    if not found:
        raise UsageError(
            "this model has no LoRA layer. Attach an adapter first: lora.attach(model, rank=16, alpha=32, seed=0)."
        )
    return found


@torch.no_grad()
def merge(layer: Any) -> Tensor:
    """W + scale * B @ A of one layer, in W's dtype; W itself is only read, and widened first where it is kept in 4 bits.

    With DoRA each row of that sum is brought to its trained length m: m * V / |V|.

    Args:
        layer: a LoRA layer of PEFT over a linear layer of weight (n, m).
    Returns: (n, m), freshly made, and rounded once at the end.
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
    """(name of the weight in the base model, merged weight) of every adapted layer, each freshly made."""
    for name, layer in lora_layers(model).items():
        yield f"{name}.weight", merge(layer)
