"""`refresh` copies the adapter into the sampler and never writes to the base model."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from envgym.errors import UsageError
from envgym_trainer.inference.in_process.engine import InProcessEngine
from envgym_trainer.inference.in_process.packed_linear import PackedLinear, can_pack
from envgym_trainer.inference.in_process.sampler_model import SamplerModel
from envgym_trainer.model.chat import Chat
from envgym_trainer.model.lora import attach_lora
from tests.fakes.dialogues import SYSTEM, fresh_logprobs, gap, talk, turns_of, user
from tests.fakes.small_models import byte_tokenizer, small_llama


@pytest.fixture(scope="module")
def tokenizer():
    return byte_tokenizer()


@pytest.fixture
def model(tokenizer):
    return small_llama(tokenizer)


@pytest.fixture
def engine(model, tokenizer):
    with InProcessEngine(
        model, Chat(tokenizer, model=model), max_context=600, max_batch=8
    ) as engine:
        yield engine


def with_adapter(model, *, seed: int = 0):
    adapted = attach_lora(model, rank=4, alpha=8, seed=seed)
    scramble(adapted, seed)
    return adapted


def scramble(adapted, seed: int) -> None:
    """Overwrite the adapter with another one."""
    torch.manual_seed(seed)
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)


def test_a_refreshed_adapter_is_sampled_from_and_equals_pefts_own_logits(model, tokenizer):
    adapted = with_adapter(model)
    with InProcessEngine(adapted, Chat(tokenizer, model=model), max_context=400) as engine:
        policy = engine.policy(max_new_tokens=10)
        opening = [SYSTEM, user("x")]
        base = talk(policy, seed=1, opening=opening).trace()
        with adapted.disable_adapter():
            assert gap(adapted, base) < 1e-4
        traces = [base]
        for seed in (1, 2):
            scramble(adapted, seed)
            engine.load_adapter(adapted)
            traces.append(talk(policy, seed=1, opening=opening).trace())
            assert gap(adapted, traces[-1]) < 1e-4
            assert gap(adapted, base) > 1e-2
        assert len({trace.token_ids for trace in traces}) == 3
        engine.load_adapter()
        assert talk(policy, seed=1, opening=opening).trace() == base


def test_a_dialogue_that_is_open_across_a_refresh_goes_on_under_the_new_weights(model, tokenizer):
    adapted = with_adapter(model)
    with InProcessEngine(adapted, Chat(tokenizer, model=model), max_context=400) as engine:
        dialogue = engine.policy(max_new_tokens=6).open([SYSTEM, user("x")], (), seed=1)
        dialogue.reply()
        engine.load_adapter(adapted)
        dialogue.observe([user("y")])
        dialogue.reply()
        trace = dialogue.trace()
        start, end = turns_of(trace)[1]
        assert (torch.tensor(trace.logprobs) - fresh_logprobs(adapted, trace))[
            start:end
        ].abs().max() < 1e-4


def test_fifty_refreshes_leave_the_base_bit_for_bit_as_it_was(model, tokenizer):
    adapted = with_adapter(model)
    before = {
        name: weight.clone() for name, weight in model.state_dict().items() if "lora_" not in name
    }
    with InProcessEngine(adapted, Chat(tokenizer, model=model), max_context=400) as engine:
        for seed in range(50):
            scramble(adapted, seed)
            engine.load_adapter(adapted)
    assert all(torch.equal(model.state_dict()[name], weight) for name, weight in before.items())


def test_the_sampler_shares_what_no_adapter_touches(model):
    adapted = with_adapter(model)
    replica = SamplerModel(adapted)
    replica.refresh(adapted)
    theirs = {weight.data_ptr() for weight in adapted.parameters()}
    own = [
        name for name, weight in replica.model.named_parameters() if weight.data_ptr() not in theirs
    ]
    assert len(own) == 2 * 7
    assert all(name.endswith("proj.weight") for name in own)
    replica.sleep()
    assert all(weight.data_ptr() in theirs for weight in replica.model.parameters())


IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])


@pytest.mark.parametrize("rows", [1, 8, 300])
@torch.no_grad()
def test_packed_weights_give_the_logits_of_plain_ones(model, rows):
    adapted = with_adapter(model)
    ids = IDS.repeat(rows, 1)[:, : 8 if rows > 1 else 1]
    packed = SamplerModel(adapted, packed=True)
    plain = SamplerModel(adapted)
    assert sum(isinstance(module, PackedLinear) for module in packed.model.modules()) == 2 * 7 + 1
    for source in (None, adapted):
        packed.refresh(source)
        plain.refresh(source)
        torch.testing.assert_close(
            packed.model(ids).logits, plain.model(ids).logits, atol=1e-5, rtol=1e-5
        )
    packed.sleep()
    with adapted.disable_adapter():
        assert torch.equal(packed.model(ids).logits, adapted(ids).logits)


@torch.no_grad()
def test_a_layer_of_a_bias_computes_with_it_packed_and_passes_over_no_rows():
    layer = torch.nn.Linear(24, 40).requires_grad_(False)
    x = torch.randn(2, 5, 24)
    packed = PackedLinear(layer)
    packed.pack()
    torch.testing.assert_close(packed(x), layer(x), atol=1e-6, rtol=1e-5)
    assert packed(x[:0]).shape == (0, 5, 40)
    packed.pack(other := torch.randn(40, 24))
    torch.testing.assert_close(packed(x), x @ other.T + layer.bias, atol=1e-5, rtol=1e-5)


def test_what_cannot_be_packed_stays_plain(tokenizer, monkeypatch):
    assert not can_pack(torch.zeros(2, 2, dtype=torch.bfloat16))
    assert not can_pack(torch.zeros(2, 2, dtype=torch.float64))
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    replica = SamplerModel(small_llama(tokenizer), packed=True)
    assert not any(isinstance(module, PackedLinear) for module in replica.model.modules())


def test_a_sleeping_sampler_refuses_to_answer_and_wakes_as_it_was(model, tokenizer):
    adapted = with_adapter(model)
    with InProcessEngine(adapted, Chat(tokenizer, model=model), max_context=400) as engine:
        engine.load_adapter(adapted)
        policy = engine.policy(max_new_tokens=6)
        before = talk(policy, seed=1).trace()
        dialogue = policy.open([SYSTEM, user("x")], (), seed=2)
        dialogue.reply()
        engine.sleep()
        assert engine._passes.own.keys[0].numel() == 0
        dialogue.observe([user("y")])
        with pytest.raises(UsageError, match=r"sleeps\. Call load_adapter"):
            dialogue.reply()
        engine.load_adapter(adapted)
        dialogue.reply()  # continues; its earlier tokens are computed again
        assert gap(adapted, dialogue.trace()) < 1e-4
        assert talk(policy, seed=1).trace().token_ids == before.token_ids


def test_a_sampler_whose_dialogues_wait_cannot_sleep(model, tokenizer):
    with InProcessEngine(model, Chat(tokenizer, model=model), max_context=400) as engine:
        engine.add_in_flight(2)  # so that the single turn waits for another
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(
                engine.policy(max_new_tokens=2).open([user("x")], (), seed=1).reply
            )
            while not engine._scheduler.turns:
                time.sleep(0.001)
            with pytest.raises(UsageError, match="cannot sleep"):
                engine.sleep()
            engine.add_in_flight(-2)
            assert answer.result().token_ids


def test_the_learners_model_keeps_its_own_attention_and_gradients(model, tokenizer):
    adapted = with_adapter(model)
    with InProcessEngine(adapted, Chat(tokenizer, model=model), max_context=400) as engine:
        engine.load_adapter(adapted)
        talk(engine.policy(max_new_tokens=3), seed=0)
        adapted(torch.tensor([[3, 4, 5]])).logits.sum().backward()
    assert all(
        weight.grad is not None for name, weight in adapted.named_parameters() if "lora_" in name
    )


def test_an_adapter_of_another_model_is_refused(model, tokenizer, engine):
    with pytest.raises(UsageError, match="not the tensor"):
        engine.load_adapter(with_adapter(small_llama(tokenizer, seed=1)))
