"""Selective activation checkpointing: keep only matrix products and attention for backward.

Norms, rotations and activation functions are cheap, but they are most of the memory that autograd
would keep. They are recomputed in the backward pass with `torch.utils.checkpoint`. The two LoRA
products are part of one operation, so an adapted layer keeps only its input and output. Not
supported in that operation, and computed as in PEFT: DoRA, dropout, trained biases, 4-bit bases.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)
from transformers.modeling_layers import GradientCheckpointingLayer


@torch.library.custom_op("envgym::lora_linear", mutates_args=())
def lora_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float
) -> Tensor:
    """Return x @ (weight + scale * b @ a).T + bias without forming the sum.

    Gradients flow to x, a and b.

    Args:
        x: Input, shape (..., m).
        weight: Frozen weight, shape (n, m).
        bias: Frozen bias, shape (n,).
        a: LoRA A, shape (r, m). Its precision may be wider than x's.
        b: LoRA B, shape (n, r), in the precision of a.
        scale: Factor of the LoRA product.

    Returns:
        Output, shape (..., n), in the precision of x, rounded once.
    """
    rows = x.reshape(-1, x.shape[-1])
    return _plus(linear(rows, weight, bias), rows.to(a.dtype) @ a.T, b.T, scale).view(
        *x.shape[:-1], len(weight)
    )


def _plus(base: Tensor, left: Tensor, right: Tensor, scale: float) -> Tensor:
    """Return base + scale * left @ right, summed in the wider precision. May write into `base`."""
    if base.dtype == left.dtype:
        return base.addmm_(left, right, alpha=scale)
    return torch.addmm(base.to(left.dtype), left, right, alpha=scale).to(base.dtype)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, _, a, b, ctx.scale = inputs
    ctx.save_for_backward(x, weight, a, b)


def _gradients(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, a, b = ctx.saved_tensors
    rows = x.reshape(-1, x.shape[-1])
    towards = gradient.reshape(-1, gradient.shape[-1])
    wide = towards.to(b.dtype)
    wide_rows = rows.to(a.dtype)
    thin = wide @ b  # (N, r)
    for_a = (thin.T @ wide_rows).mul_(ctx.scale)
    for_b = (wide.T @ (wide_rows @ a.T)).mul_(ctx.scale)
    for_x = (
        _plus(towards @ weight, thin, a, ctx.scale).view_as(x) if ctx.needs_input_grad[0] else None
    )
    return for_x, None, None, for_a, for_b, None


lora_linear.register_autograd(_gradients, setup_context=_keep)

KEPT = {
    torch.ops.envgym.lora_linear.default,
    torch.ops.aten.mm.default,
    torch.ops.aten.addmm.default,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
    torch.ops.aten._scaled_dot_product_flash_attention.default,
    torch.ops.aten._scaled_dot_product_efficient_attention.default,
    torch.ops.aten._scaled_dot_product_cudnn_attention.default,
}


@contextmanager
def activation_checkpointing(model: Any) -> Iterator[None]:
    """Use activation checkpointing during a forward and backward pass.

    Args:
        model: A `peft.PeftModel`. Layers that transformers cannot checkpoint are unchanged.
    """
    from peft.tuners.lora import Linear

    with ExitStack() as stack:
        for module in model.modules():
            if isinstance(module, GradientCheckpointingLayer):
                stack.enter_context(_forward(module, partial(_checkpointed, module.forward)))
            elif isinstance(module, Linear) and _is_plain(module):
                stack.enter_context(_forward(module, partial(_lora_forward, module)))
        yield


def _checkpointed(forward: Any, *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    contexts = partial(create_selective_checkpoint_contexts, _policy)
    return checkpoint(forward, *args, use_reentrant=False, context_fn=contexts, **kwargs)


def _policy(ctx: Any, operation: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operation in KEPT else CheckpointPolicy.PREFER_RECOMPUTE


def _lora_forward(layer: Any, x: Tensor) -> Tensor:
    if layer.disable_adapters:
        return layer.base_layer(x)
    base = layer.base_layer
    name = layer.active_adapters[0]
    return lora_linear(
        x,
        base.weight,
        base.bias,
        layer.lora_A[name].weight,
        layer.lora_B[name].weight,
        layer.scaling[name],
    )


def _is_plain(layer: Any) -> bool:
    if (
        layer.merged
        or len(layer.active_adapters) != 1
        or (name := layer.active_adapters[0]) not in layer.lora_A
    ):
        return False
    odd = (
        name in layer.lora_variant
        or layer.lora_bias[name]
        or not isinstance(layer.lora_dropout[name], nn.Identity)
    )
    frozen = not any(value.requires_grad for value in layer.base_layer.parameters())
    return type(layer.base_layer) is nn.Linear and frozen and not odd


@contextmanager
def _forward(module: nn.Module, forward: Any) -> Iterator[None]:
    """Replace the forward method of a module while in the block."""
    module.forward = forward
    try:
        yield
    finally:
        del module.forward  # restores the method of the class
