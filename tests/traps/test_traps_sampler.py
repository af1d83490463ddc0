"""Traps 4-8, 23, 25, 30: the engine samples from the trained policy, in the right dialogue."""

import hashlib
import math
import threading

import pytest
import torch

from envgym.errors import SpecError, UsageError
from envgym.messages import Message
from envgym.playing import Request, play_many
from envgym.spec.environment import load_spec
from envgym_trainer.config.algorithm import AlgorithmConfig, ImportanceWeightsConfig
from envgym_trainer.inference.in_process import forward as passes
from envgym_trainer.inference.in_process.engine import InProcessEngine
from envgym_trainer.learner.learner import Learner
from envgym_trainer.learner.update_settings import UpdateSettings
from envgym_trainer.model.chat import Chat
from envgym_trainer.model.lora import attach_lora, lora_layers, merge
from tests.fakes.dialogues import fresh_logprobs, gap, talk
from tests.fakes.small_models import byte_tokenizer, small_llama
from tests.fakes.trap_worlds import NonceEnv, byte_engine, samples_from, scramble

OPENING = [Message("system", "One system message for all."), Message("user", "x")]
DRIFT = "sampling/sampling_logp_difference/max"
RATIO = "sampling/importance_sampling_ratio/mean"


@pytest.fixture
def sampler():
    model, engine = byte_engine()
    with engine:
        yield model, engine


@pytest.mark.trap(4)
@pytest.mark.parametrize("layout", ["tree", "flat"])
def test_before_any_update_the_ratio_is_one_because_sampler_and_learner_give_the_same_logprobs(
    sampler, layout
):
    model, engine = sampler
    metrics = Learner(model, layout=layout).update(samples_from(engine), UpdateSettings())
    assert metrics[DRIFT] < 2e-5
    assert metrics[RATIO] == pytest.approx(1.0, abs=1e-6)


@pytest.mark.trap(4)
def test_in_bfloat16_the_ratio_is_one_within_a_hundredth():
    tokenizer = byte_tokenizer()
    model = attach_lora(
        small_llama(tokenizer, initializer_range=0.05).bfloat16(), rank=4, alpha=8, seed=0
    )
    scramble(model, 0, std=0.05)
    with InProcessEngine(model, Chat(tokenizer, model=model), max_context=600) as engine:
        engine.load_adapter(model)
        metrics = Learner(model).update(samples_from(engine), UpdateSettings())
    assert 0 < metrics[DRIFT] < 0.05
    assert metrics[RATIO] == pytest.approx(1.0, abs=1e-2)


def checksum(model) -> str:
    """Return a checksum of all weights except the adapter's."""
    digest = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        if "lora_" not in name:
            digest.update(name.encode() + weight.numpy().tobytes())
    return digest.hexdigest()


@pytest.mark.trap(5)
def test_a_thousand_syncs_leave_the_base_weights_as_they_were_to_the_bit(sampler):
    model, engine = sampler
    before = checksum(model)
    for seed in range(1000):
        scramble(model, seed % 7)
        engine.load_adapter(model)
    assert checksum(model) == before
    # and the last adapter is active
    assert gap(model, talk(engine.policy(max_new_tokens=6), seed=1).trace()) < 1e-4


@pytest.mark.trap(5)
def test_the_merged_weight_gives_what_base_and_adapter_give_apart(sampler):
    model, _ = sampler
    for layer in lora_layers(model).values():
        x = torch.randn(5, layer.in_features)
        assert torch.allclose(x @ merge(layer).T, layer(x), rtol=0, atol=1e-5)


@pytest.mark.trap(6)
def test_after_an_update_nothing_computed_under_the_old_adapter_is_used(sampler):
    model, engine = sampler
    policy = engine.policy(max_new_tokens=6)
    # the cache holds the system message, the prompt and the dialogue's own turn
    opened = policy.open(OPENING, (), seed=1)
    opened.reply()
    scramble(model, 1)
    engine.load_adapter(model)
    opened.observe([Message("tool", "y")])
    second = opened.reply()
    warm = policy.open(OPENING, (), seed=2)
    warm.reply()
    assert gap(model, warm.trace()) < 1e-4
    start = len(opened.trace().token_ids) - len(second.token_ids)
    with InProcessEngine(model, engine.chat, max_context=600) as cold:
        cold.load_adapter(model)
        fresh = cold.policy(max_new_tokens=6).open(OPENING, (), seed=2)
        fresh.reply()
    assert fresh.trace().token_ids == warm.trace().token_ids
    assert (torch.tensor(opened.trace().logprobs) - fresh_logprobs(model, opened.trace()))[
        start:
    ].abs().max() < 1e-4


@pytest.mark.trap(7)
def test_every_adapted_module_is_bound_in_the_sampler_and_each_changes_its_logprobs(sampler):
    model, engine = sampler
    layers = lora_layers(model)
    assert len(layers) == 2 * 7
    trace = talk(engine.policy(max_new_tokens=8), seed=1).trace()
    for name, layer in layers.items():
        before = layer.lora_B["default"].weight.clone()
        layer.lora_B["default"].weight.data.neg_()
        assert gap(model, trace) > 1e-3, name  # this module alone changes the logprobs
        engine.load_adapter(model)
        assert gap(model, talk(engine.policy(max_new_tokens=8), seed=1).trace()) < 1e-4, name
        layer.lora_B["default"].weight.data.copy_(before)
    with model.disable_adapter():
        assert gap(model, trace) > 1e-2


@pytest.mark.trap(8)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_keys_and_values_are_kept_in_the_models_own_precision(dtype):
    tokenizer = byte_tokenizer()
    model = small_llama(tokenizer).to(dtype)
    with InProcessEngine(model, Chat(tokenizer, model=model), max_context=300) as engine:
        stores = [
            *engine._passes.own.keys,
            *engine._passes.own.values,
            *engine._passes.shared.keys,
            *engine._passes.shared.values,
        ]
        assert {store.dtype for store in stores} == {dtype}


@pytest.mark.trap(8)
def test_a_store_that_rounds_as_fp8_does_is_refused_at_the_start(monkeypatch):
    class Rounding(passes.KeyValues):
        def reserve(self, rows, tokens):
            super().reserve(rows, tokens)
            for tensors in (self.keys, self.values):
                for layer, held in enumerate(tensors):
                    tensors[layer] = held.to(torch.float8_e4m3fn).to(held.dtype)

    monkeypatch.setattr(passes, "KeyValues", Rounding)
    tokenizer = byte_tokenizer()
    model = small_llama(tokenizer)
    with pytest.raises(UsageError, match="other logits than the model's own"):
        InProcessEngine(model, Chat(tokenizer, model=model), max_context=300)


@pytest.mark.trap(23)
@pytest.mark.parametrize("temperature", [0.7, 1.3])
def test_what_was_sampled_at_a_temperature_is_scored_at_it(sampler, temperature):
    model, engine = sampler
    metrics = Learner(model).update(
        samples_from(engine, temperature=temperature), UpdateSettings(temperature=temperature)
    )
    assert metrics[DRIFT] < 2e-5
    assert metrics[RATIO] == pytest.approx(1.0, abs=1e-6)


@pytest.mark.trap(23)
@pytest.mark.parametrize("setting", ["top_p=0.9", "top_k=20", "repetition_penalty=1.1"])
def test_a_sampler_that_would_draw_from_another_distribution_cannot_be_asked_for(setting):
    with pytest.raises(SpecError, match=setting.split("=")[0]):
        load_spec("guess", [f"train.{setting}"])


@pytest.mark.trap(25)
def test_dropout_is_off_while_scoring_though_the_model_was_left_in_training_mode():
    tokenizer = byte_tokenizer()
    model = attach_lora(small_llama(tokenizer), rank=4, alpha=8, dropout=0.5, seed=0)
    scramble(model, 0)
    with InProcessEngine(model, Chat(tokenizer, model=model), max_context=600) as engine:
        engine.load_adapter(model.train())
        learner = Learner(
            model,
            algorithm=AlgorithmConfig(importance_weights=ImportanceWeightsConfig(mode="truncate")),
        )
        samples = learner.with_trainer_logprobs(samples_from(engine), UpdateSettings())
        assert len(samples) > 0
        for sample in samples:
            gaps = zip(sample.trainer_logprobs, sample.old_logprobs, sample.loss_mask, strict=True)
            assert max(abs(scored - old) for scored, old, sampled in gaps if sampled) < 2e-5
        # as requested; the mismatch alarm reports this
        assert learner.update(samples, UpdateSettings())[DRIFT] > 1e-3


def interleaved(count: int, *, workers: int, delay: float, checked: int) -> None:
    """Play `count` episodes at once. Find each one's nonce, seed and tokens in its own record."""
    model, engine = byte_engine(max_batch=workers)
    lock = threading.Lock()
    made = []

    def make():
        with lock:
            made.append(env := NonceEnv(turns=2, delay=delay))
        return env

    requests = [Request(f"nonce-{n}-{n * 7919 % 10007}", seed=n) for n in range(count)]
    with engine:
        episodes = play_many(make, engine.policy(max_new_tokens=2), requests, workers=workers)
    assert 1 < len(made) <= workers
    assert len(episodes) == count
    for request, episode in zip(requests, episodes, strict=True):
        trace = episode.tokens
        nonce = f"<{request.task}>"
        assert (episode.task_id, episode.seed, episode.is_void) == (
            request.task,
            request.seed,
            False,
        )
        assert [m.content for m in episode.messages if m.role == "user"] == [nonce] * 3
        said = [m.content for m in episode.messages if m.role == "assistant"]
        # the environment's input is the dialogue's output
        assert said == episode.state_diff["heard"]
        text = engine.chat.tokenizer.decode(trace.token_ids)
        assert text.count("nonce-") == text.count(nonce) == 2  # its own nonce and no other
        assert all(words in text for words in said)
    for episode in episodes[:: max(1, count // checked)]:
        # each token was sampled from its own dialogue's logits
        assert gap(model, episode.tokens) < 1e-4
    assert len({episode.tokens.token_ids for episode in episodes}) == count
    assert all(math.isfinite(value) for episode in episodes for value in episode.tokens.logprobs)


@pytest.mark.trap(30)
def test_two_hundred_interleaved_episodes_do_not_cross():
    interleaved(200, workers=16, delay=0.004, checked=50)


@pytest.mark.trap(30)
@pytest.mark.campaign
@pytest.mark.timeout(3600)
def test_ten_thousand_interleaved_episodes_do_not_cross():
    interleaved(10_000, workers=64, delay=0.01, checked=500)
