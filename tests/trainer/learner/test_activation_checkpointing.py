"""Layers that save memory give the same gradients.

LoRA is one operation, and cheap parts are recomputed in the backward pass.
"""

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from envgym_trainer.learner.activation_checkpointing import activation_checkpointing, lora_linear
from envgym_trainer.model.lora import attach_lora, training_mode
from tests.fakes.small_models import byte_tokenizer, small_llama
from tests.fakes.tiny_lora import tiny_model

IDS = torch.tensor([[5, 6, 7, 8, 9, 10], [3, 1, 4, 1, 5, 9]])


def drawn(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def operands(*, bias, dtype=torch.float64):
    x, weight, a, b = (
        drawn(*shape, dtype=dtype, seed=n)
        for n, shape in enumerate([(2, 5, 6), (7, 6), (3, 6), (7, 3)])
    )
    for trained in (x, a, b):
        trained.requires_grad_()
    return [x, weight, drawn(7, dtype=dtype, seed=9) if bias else None, a, b, 0.7]


@pytest.mark.parametrize("bias", [True, False])
def test_the_operation_is_the_sum_that_it_stands_for_and_so_are_its_gradients(bias):
    x, weight, shift, a, b, scale = operands(bias=bias)
    written = x @ (weight + scale * b @ a).T + (0 if shift is None else shift)
    found = lora_linear(x, weight, shift, a, b, scale)
    torch.testing.assert_close(found, written, atol=1e-12, rtol=0)
    for one, other in zip(
        *(torch.autograd.grad(y.sin().sum(), [x, a, b]) for y in (found, written)), strict=True
    ):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=0)


@pytest.mark.parametrize("bias", [True, False])
def test_the_operation_keeps_torchs_rules(bias):
    torch.library.opcheck(
        lora_linear, operands(bias=bias), test_utils=("test_schema", "test_autograd_registration")
    )


def test_with_a_wider_adapter_the_sum_is_rounded_once():
    x = drawn(4, 8).bfloat16()
    weight = drawn(6, 8, seed=1).bfloat16()
    a = drawn(2, 8, seed=2).float()
    b = drawn(6, 2, seed=3).float()
    exact = x.double() @ weight.double().T + 0.5 * (x.double() @ a.double().T) @ b.double().T
    found = lora_linear(x, weight, None, a, b, 0.5)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), exact, rtol=2**-7, atol=2**-7)


def gradients(model, *, few, seed=0):
    """Return the loss, a sum over all logits, and its gradient for every trained tensor."""
    training_mode(model)
    model.zero_grad()
    torch.manual_seed(seed)
    if few:
        with activation_checkpointing(model):
            loss = model(input_ids=IDS, use_cache=False).logits.sin().sum()
            loss.backward()
    else:
        loss = model(input_ids=IDS, use_cache=False).logits.sin().sum()
        loss.backward()
    return {name: value.grad for name, value in model.named_parameters() if value.requires_grad} | {
        "loss": loss.detach()
    }


KINDS = [
    {"dropout": 0.3},
    {"use_dora": True},
    {"use_rslora": True},
    {"bias": "lora_only"},
    {"bias": "all"},
    {"targets": ["q_proj", "v_proj"]},
]


@pytest.mark.parametrize("options", [{}, *KINDS], ids=str)
def test_every_kind_of_adapter_gets_the_gradients_that_it_gets_from_peft(options):
    model = attach_lora(
        small_llama(byte_tokenizer(), attention_bias=True), rank=4, alpha=8.0, seed=0, **options
    ).double()
    for name, value in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(value, std=0.1)
    found = gradients(model, few=True)
    expected = gradients(model, few=False)
    assert found.keys() == expected.keys()
    assert max(value.abs().max() for value in expected.values()) > 1e-2
    for name, value in expected.items():
        # Llama's norm always computes in float32
        torch.testing.assert_close(found[name], value, atol=1e-6, rtol=1e-6, msg=name)


def test_with_the_adapter_off_the_model_is_its_base():
    model = tiny_model()
    with torch.no_grad(), model.disable_adapter():
        expected = model(input_ids=IDS).logits
        with activation_checkpointing(model):
            assert torch.equal(model(input_ids=IDS).logits, expected)


class Counted(TorchDispatchMode):
    """Dispatch mode that counts the operations that torch really executes."""

    def __init__(self):
        super().__init__()
        self.calls = Counter()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.calls[operation.overloadpacket._qualified_op_name] += 1
        return operation(*args, **(kwargs or {}))


def test_products_and_attention_are_computed_once_and_the_cheap_rest_again():
    model = tiny_model()
    with Counted() as forward, activation_checkpointing(model):
        loss = model(input_ids=IDS, use_cache=False).logits.sum()
    with Counted() as backward, activation_checkpointing(model):
        loss.backward()
    layers = model.config.num_hidden_layers
    attention = "aten::_scaled_dot_product_flash_attention_for_cpu"
    assert (forward.calls["envgym::lora_linear"], backward.calls["envgym::lora_linear"]) == (
        7 * layers,
        0,
    )
    assert (forward.calls[attention], backward.calls[attention]) == (layers, 0)
    assert (forward.calls["aten::silu"], backward.calls["aten::silu"]) == (layers, layers)


@pytest.mark.parametrize("fails", [False, True])
def test_afterwards_the_model_is_as_it_was(fails):
    model = tiny_model()
    before = [dict(vars(module)) for module in model.modules()]
    try:
        with activation_checkpointing(model):
            model(input_ids=IDS)
            if fails:
                raise InterruptedError
    except InterruptedError:
        pass
    assert [vars(module).keys() for module in model.modules()] == [old.keys() for old in before]
    assert not any("forward" in vars(module) for module in model.modules())
