"""The sampler's copy of the model: shared frozen tensors and separate merged weights.

The base is never written. Merging the adapter into it and removing it again would change the base a
little each time (huggingface/trl#6688). Instead, W + scale * B @ A is computed from W at every
refresh and can be freed in between. Biases and modules that are trained in full are shared with the
model, so the sampler always uses their current values.
"""

from __future__ import annotations

import copy
from collections.abc import Collection
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from envgym.errors import UsageError
from envgym_trainer.inference.in_process.packed_linear import PackedLinear, can_pack
from envgym_trainer.model import lora
from envgym_trainer.model.quantize import dense_weight, is_4bit


class SamplerModel:
    """Second model that shares the first model's tensors.

    Args:
        model: Causal language model, with or without a PEFT adapter. It is only read.
        packed: Use packed weights if possible. See `packed.py`.
    """

    def __init__(self, model: Any, *, packed: bool = False):
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        self._base = {name: module.weight for name, module in _linears(base).items()}
        shared = {id(tensor): tensor for tensor in chain(base.parameters(), base.buffers())}
        self.model: Any = _widened(_without_adapters(copy.deepcopy(base, shared))).eval()
        if packed:
            _pack(self.model, shared)
        self._layers = {
            name: module for name, module in _linears(self.model).items() if name in self._base
        }
        """Linear layers by name, without those that are trained in full and shared."""

    @torch.no_grad()
    def refresh(self, peft_model: Any = None) -> None:
        """Take over the adapter's current values. None returns to the base."""
        layers = {} if peft_model is None else lora.lora_layers(peft_model)
        if missing := layers.keys() - self._base.keys():
            raise UsageError(
                "the adapter belongs to another model: the sampler has no linear layer named "
                f"{min(missing)}."
            )
        for name, module in self._layers.items():
            base = self._base[name]
            if name in layers and layers[name].get_base_layer().weight is not base:
                raise UsageError(
                    f"{name}: the adapter's base weight is not the tensor that the sampler was "
                    "created from."
                )
            merged = lora.merge(layers[name]) if name in layers else None
            if isinstance(module, PackedLinear):
                module.pack(merged)
            else:
                module.weight = _frozen(dense_weight(base) if merged is None else merged)

    def sleep(self) -> None:
        """Free all separate weights until the next refresh. Until then the copy equals the base."""
        for name, module in self._layers.items():
            if isinstance(module, PackedLinear):
                module.unpack()
            elif not is_4bit(self._base[name]):
                module.weight = _frozen(self._base[name])


def _frozen(weight: Tensor) -> nn.Parameter:
    return weight if isinstance(weight, nn.Parameter) else nn.Parameter(weight, requires_grad=False)


def _linears(model: nn.Module) -> dict[str, Any]:
    """Return the linear layers by their name without an adapter."""
    from peft.tuners.lora import LoraLayer

    found: dict[str, Any] = {}
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            found[name] = module.get_base_layer()
        elif (
            isinstance(module, nn.Linear | PackedLinear)
            and ".lora_" not in name
            and not name.endswith(".base_layer")
        ):
            found[name] = module
    return found


def _without_adapters(model: nn.Module) -> nn.Module:
    """Replace each adapted layer by its original linear layer."""
    from peft.tuners.lora import LoraLayer

    for name, module in list(model.named_modules()):
        if isinstance(module, LoraLayer):
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, module.get_base_layer())
    if hasattr(model, "peft_config"):
        # Without this attribute PEFT treats the model as a plain model.
        del model.peft_config
    return model


def _widened(model: nn.Module) -> nn.Module:
    """Replace 4-bit layers by ordinary linear layers, because a merged weight is not in 4 bits."""
    for name, module in _linears(model).items():
        if is_4bit(module.weight):
            parent, _, child = name.rpartition(".")
            plain = nn.Linear(
                module.in_features, module.out_features, bias=module.bias is not None, device="meta"
            )
            plain.weight = _frozen(dense_weight(module.weight))
            plain.bias = module.bias
            setattr(model.get_submodule(parent), child, plain)
    return model


def _pack(model: nn.Module, shared: Collection[int]) -> None:
    """Replace linear layers by packed ones if their weight is shared.

    Packing other layers would keep two copies of their weights.
    """
    for name, module in _linears(model).items():
        if id(module.weight) in shared and can_pack(module.weight):
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, PackedLinear(module))
