"""Each model family samples like its own forward pass and learns from the sampled tokens.

If its attention allows, it uses the fast path.
"""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GemmaConfig,
    GemmaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from envgym_trainer.batch import Sample
from envgym_trainer.inference.in_process.attention import why_unknown
from envgym_trainer.inference.in_process.engine import InProcessEngine
from envgym_trainer.inference.in_process.forward import CachedForward
from envgym_trainer.inference.in_process.plain_forward import PlainForward
from envgym_trainer.learner.learner import Learner
from envgym_trainer.learner.update_settings import UpdateSettings
from envgym_trainer.model.chat import Chat
from tests.fakes.dialogues import assert_greedy_as_generate, gap, talk, together
from tests.fakes.small_models import byte_tokenizer, small_llama

CONTEXT = 600
TOKENIZER = byte_tokenizer()
SIZES = {
    "vocab_size": len(TOKENIZER),
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 2048,
    "initializer_range": 0.2,
    "bos_token_id": None,
    "eos_token_id": TOKENIZER.eos_token_id,
    "pad_token_id": TOKENIZER.eos_token_id,
}
MIXED = {"layer_types": ["sliding_attention", "full_attention"]}
FAST = {
    "Qwen 2": (Qwen2ForCausalLM, Qwen2Config, {}),
    "Qwen 3": (Qwen3ForCausalLM, Qwen3Config, {}),
    "Mistral, a window wider than the dialogue": (
        MistralForCausalLM,
        MistralConfig,
        {"sliding_window": CONTEXT},
    ),
    "Gemma": (GemmaForCausalLM, GemmaConfig, {}),
    "Gemma 3, a window wider than the dialogue": (
        Gemma3ForCausalLM,
        Gemma3TextConfig,
        {"sliding_window": CONTEXT} | MIXED,
    ),
}
PLAIN = {
    "Mistral, a short window": (MistralForCausalLM, MistralConfig, {"sliding_window": 16}),
    "Gemma 3, a short window": (
        Gemma3ForCausalLM,
        Gemma3TextConfig,
        {"sliding_window": 16} | MIXED,
    ),
    "Qwen 3, a short window": (
        Qwen3ForCausalLM,
        Qwen3Config,
        {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1},
    ),
}


def made(family, config, change):
    torch.manual_seed(0)
    return family(config(**(SIZES | change))).eval().requires_grad_(False)


def open_engine(model, said=None):
    return InProcessEngine(
        model,
        Chat(TOKENIZER, model=model),
        max_context=CONTEXT,
        max_batch=4,
        notify=said.append if said is not None else print,
    )


@pytest.mark.parametrize("name", [*FAST, *PLAIN])
def test_greedy_turns_equal_generate_and_sampled_ones_know_their_logprobs(name):
    model = made(*(FAST | PLAIN)[name])
    said = []
    with open_engine(model, said) as engine:
        assert isinstance(engine._passes, CachedForward if name in FAST else PlainForward)
        for dialogue in together(
            lambda n: talk(engine.policy(temperature=0.0, max_new_tokens=9), seed=n), 3
        ):
            assert_greedy_as_generate(model, dialogue.trace(), limit=9)
        for dialogue in together(lambda n: talk(engine.policy(max_new_tokens=9), seed=n), 6):
            assert gap(model, dialogue.trace()) < 1e-4
    assert len(said) == (name in PLAIN)


@pytest.mark.parametrize("name", [*FAST, *PLAIN])
def test_what_was_sampled_under_an_adapter_is_what_is_trained(name):
    model = made(*(FAST | PLAIN)[name])
    linears = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    adapted = get_peft_model(
        model, LoraConfig(r=4, target_modules=linears, init_lora_weights=False)
    )
    with open_engine(adapted) as engine:
        engine.load_adapter(adapted)
        opening = talk(engine.policy(max_new_tokens=1), seed=0, turns=1)._history[:-1]
        traces = [
            d.trace()
            for d in together(
                lambda n: talk(engine.policy(max_new_tokens=9), seed=n, opening=opening), 6
            )
        ]
    samples = [Sample.from_trace(trace, advantage=(-1.0) ** n) for n, trace in enumerate(traces)]
    layout = "flat" if why_unknown(model.config, CONTEXT) else "tree"
    assert layout == ("tree" if name in FAST else "flat")
    metrics = Learner(adapted, layout=layout).update(samples, UpdateSettings(learning_rate=0.0))
    assert metrics["sampling/sampling_logp_difference/max"] < 1e-4
    assert metrics["grad_norm"] > 0


def test_a_dialogue_that_leaves_its_siblings_on_the_plain_path_sees_its_own_past():
    model = made(*PLAIN["Mistral, a short window"])
    with open_engine(model) as engine:
        opening = talk(engine.policy(max_new_tokens=1), seed=0, turns=1)._history[:-1]
        policies = [engine.policy(max_new_tokens=12, temperature=float(n >= 5)) for n in range(8)]
        traces = [
            d.trace() for d in together(lambda n: talk(policies[n], seed=n, opening=opening), 8)
        ]
        engine.load_adapter()
        traces += [talk(policies[7], seed=9).trace()]
    assert max(gap(model, trace) for trace in traces) < 1e-4


def test_positions_that_change_with_the_length_take_the_plain_path():
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    model = small_llama(TOKENIZER, rope_parameters=rope)
    said = []
    with open_engine(model, said) as engine:
        assert isinstance(engine._passes, PlainForward)
    assert "'dynamic' positions, which change with the length" in said[0]


def test_layers_of_another_kind_are_named():
    class Config:
        layer_types = ("linear_attention", "full_attention")

    assert why_unknown(Config(), 100) == "layers of kind linear_attention"
