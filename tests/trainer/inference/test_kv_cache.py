"""KV caches grow in rows and tokens, keep their contents, and stay within a bound."""

import pytest
import torch

from envgym_trainer.inference.in_process.forward import CachedForward
from envgym_trainer.inference.in_process.kv_cache import KeyValues
from envgym_trainer.inference.in_process.layout import RowInput
from tests.fakes.small_models import byte_tokenizer, small_llama


@pytest.fixture
def store():
    return KeyValues(
        layers=2,
        rows=20,
        tokens=300,
        heads=1,
        dim=4,
        dtype=torch.float32,
        device=torch.device("cpu"),
    )


def shape(store):
    assert {tensor.shape for tensor in (*store.keys, *store.values)} == {store.keys[0].shape}
    return store.keys[0].shape[0], store.keys[0].shape[2]


def test_a_store_doubles_up_to_its_bound_and_goes_beyond_it_only_when_told_to(store):
    assert shape(store) == (0, 0)
    sizes = []
    for asked in ((1, 3), (1, 64), (9, 2), (9, 65), (17, 129), (20, 257), (3, 5), (21, 301)):
        store.reserve(*asked)
        sizes.append(shape(store))
    assert sizes == [
        (8, 64),
        (8, 64),
        (16, 64),
        (16, 128),
        (20, 256),
        (20, 300),
        (20, 300),
        (21, 301),
    ]


def test_growing_and_copying_keep_what_is_held_and_the_rest_is_zero(store):
    store.reserve(2, 10)
    store.values[1][1, 0, :3] = 5.0
    store.copy(1, 12, 1, 3)
    store.reserve(18, 200)
    held = store.values[1]
    assert held[1, 0, :3].eq(5).all()
    assert held[12, 0, 1:3].eq(5).all()
    assert held.sum() == 5.0 * 4 * 5
    assert not store.keys[1].any()


def test_a_sampler_with_many_rows_holds_only_those_that_are_used():
    passes = CachedForward(
        small_llama(byte_tokenizer()), rows=10_000, shared_rows=10_000, max_context=400
    )
    passes.tune()
    with torch.inference_mode():
        passes.logits([RowInput([5] * 70, 2, 0)], [0])
    assert shape(passes.own) == (8, 128)
    assert shape(passes.shared) == (8, 64)
