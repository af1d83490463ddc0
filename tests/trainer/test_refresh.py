"""The adapter in the sampler: taken over anew at each refresh, over a base that is never written."""

import pytest
import torch
from dialogues import SYSTEM, fresh_logprobs, gap, talk, turns_of, user
from small_models import byte_tokenizer, small_llama

from envgym.errors import UsageError
from envgym_trainer.chat import Chat
from envgym_trainer.engine import Engine
from envgym_trainer.lora import attach


@pytest.fixture(scope="module")
def tokenizer():
    return byte_tokenizer()


@pytest.fixture
def model(tokenizer):
    return small_llama(tokenizer)


@pytest.fixture
def engine(model, tokenizer):
    with Engine(model, Chat(tokenizer, model=model), max_context=600, max_batch=8) as engine:
        yield engine


def with_adapter(model, *, seed: int = 0):
    adapted = attach(model, rank=4, alpha=8, seed=seed)
    scramble(adapted, seed)
    return adapted


def scramble(adapted, seed: int) -> None:
    """Another adapter in the same place."""
    torch.manual_seed(seed)
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)


def test_a_refreshed_adapter_is_sampled_from_and_equals_pefts_own_logits(model, tokenizer):
    adapted = with_adapter(model)
    with Engine(adapted, Chat(tokenizer, model=model), max_context=400) as engine:
        policy = engine.policy(max_new_tokens=10)
        opening = [SYSTEM, user("x")]
        base = talk(policy, seed=1, opening=opening).trace()
        with adapted.disable_adapter():
            assert gap(adapted, base) < 1e-4
        traces = [base]
        for seed in (1, 2):
            scramble(adapted, seed)
            engine.refresh(adapted)
            traces.append(talk(policy, seed=1, opening=opening).trace())
            assert gap(adapted, traces[-1]) < 1e-4
            assert gap(adapted, base) > 1e-2
        assert len({trace.token_ids for trace in traces}) == 3
        engine.refresh()
        assert talk(policy, seed=1, opening=opening).trace() == base


def test_a_dialogue_that_is_open_across_a_refresh_goes_on_under_the_new_weights(model, tokenizer):
    adapted = with_adapter(model)
    with Engine(adapted, Chat(tokenizer, model=model), max_context=400) as engine:
        dialogue = engine.policy(max_new_tokens=6).open([SYSTEM, user("x")], (), seed=1)
        dialogue.reply()
        engine.refresh(adapted)
        dialogue.observe([user("y")])
        dialogue.reply()
        trace = dialogue.trace()
        start, end = turns_of(trace)[1]
        assert (torch.tensor(trace.logprobs) - fresh_logprobs(adapted, trace))[start:end].abs().max() < 1e-4


def test_fifty_refreshes_leave_the_base_bit_for_bit_as_it_was(model, tokenizer):
    adapted = with_adapter(model)
    before = {name: weight.clone() for name, weight in model.state_dict().items() if "lora_" not in name}
    with Engine(adapted, Chat(tokenizer, model=model), max_context=400) as engine:
        for seed in range(50):
            scramble(adapted, seed)
            engine.refresh(adapted)
    assert all(torch.equal(model.state_dict()[name], weight) for name, weight in before.items())


def test_the_sampler_shares_what_no_adapter_touches(model, tokenizer):
    adapted = with_adapter(model)
    with Engine(adapted, Chat(tokenizer, model=model), max_context=400) as engine:
        engine.refresh(adapted)
        theirs = {weight.data_ptr() for weight in adapted.parameters()}
        own = [name for name, weight in engine._replica.model.named_parameters() if weight.data_ptr() not in theirs]
    assert len(own) == 2 * 7
    assert all(name.endswith("proj.weight") for name in own)


def test_the_learners_model_keeps_its_own_attention_and_gradients(model, tokenizer):
    adapted = with_adapter(model)
    with Engine(adapted, Chat(tokenizer, model=model), max_context=400) as engine:
        engine.refresh(adapted)
        talk(engine.policy(max_new_tokens=3), seed=0)
        adapted(torch.tensor([[3, 4, 5]])).logits.sum().backward()
    assert all(weight.grad is not None for name, weight in adapted.named_parameters() if "lora_" in name)


def test_an_adapter_of_another_model_is_refused(model, tokenizer, engine):
    with pytest.raises(UsageError, match="not the tensor"):
        engine.refresh(with_adapter(small_llama(tokenizer, seed=1)))
