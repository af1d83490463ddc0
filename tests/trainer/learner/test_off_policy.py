"""Off-policy metrics: sampler mismatch is kept apart from staleness, and the alarm is raised."""

import dataclasses
import math

import pytest
import torch

from envgym.errors import SpecError
from envgym.messages import Message
from envgym.spec.environment import load_spec
from envgym_trainer.algorithms.losses import LossOutput
from envgym_trainer.batch import Sample
from envgym_trainer.inference.in_process.engine import InProcessEngine
from envgym_trainer.learner.learner import Learner
from envgym_trainer.learner.off_policy import (
    MismatchMonitor,
    SamplerMismatch,
    combine,
    effective_sample_size,
    inner_updates,
    with_drift,
)
from envgym_trainer.learner.update_settings import UpdateSettings
from envgym_trainer.model.chat import Chat
from envgym_trainer.model.lora import attach_lora
from tests.fakes.small_models import byte_tokenizer, small_llama
from tests.fakes.tiny_lora import random_samples, tiny_model
from tests.trainer.learner.test_learner import adapter, largest_difference, on_policy


def watch(on_mismatch="stop", said=None):
    return MismatchMonitor(
        dtype=torch.float32,
        on_mismatch=on_mismatch,
        notify=[].append if said is None else said.append,
    )


def fresh(seed=0, **options):
    """Return a float32 learner and samples with logprobs of its own weights."""
    model = tiny_model(dtype=torch.float32)
    return Learner(model, **options), on_policy(model, random_samples(seed))


FAST = UpdateSettings(learning_rate=1e-2)


def test_drift_by_hand():
    # ratios 1 and 1.5
    new = torch.tensor([0.0, 0.5]).log1p()
    old = torch.zeros(2)
    out = with_drift(LossOutput(torch.tensor(3.0), {"x": torch.tensor(1.0)}), new, old)
    assert out.loss == 3.0
    assert {name: value.item() for name, value in (out.sums | out.maxima).items()} == pytest.approx(
        {
            "x": 1.0,
            "drift/mean": math.log(1.5),
            "drift/ratio": 2.5,
            "drift/ratio_squared": 3.25,
            "drift/max": math.log(1.5),
        }
    )


def test_the_effective_sample_size_by_hand():
    assert effective_sample_size(1.0, 1.0) == 1.0
    # (3 + 1)^2 / (2 * (9 + 1))
    assert effective_sample_size((3.0 + 1.0) / 2, (9.0 + 1.0) / 2) == pytest.approx(0.8)
    # one of four tokens has all the weight
    assert effective_sample_size(1 / 4, 1 / 4) == pytest.approx(0.25)


def test_mismatch_is_what_stands_before_the_first_update_and_staleness_what_comes_after():
    learner, samples = fresh()
    metrics = inner_updates(learner, [samples[:6], samples[6:]], FAST, epochs=2, watch=watch())
    assert (
        metrics["off_policy/mismatch_max"]
        < 1e-4
        < metrics["off_policy/staleness_mean"]
        < metrics["off_policy/staleness_max"]
    )
    assert metrics["off_policy/ess"] < 0.9999
    assert metrics["off_policy/mismatch_alarm"] == 0.0
    assert learner.updates == 4  # two minibatches, two epochs


def test_one_update_a_step_has_no_staleness_and_a_full_sample():
    learner, samples = fresh()
    metrics = inner_updates(learner, [samples], FAST, epochs=1, watch=watch())
    assert "off_policy/staleness_mean" not in metrics
    assert metrics["off_policy/ess"] == pytest.approx(1.0, abs=1e-6)
    assert not any(name.startswith("drift/") for name in metrics)


def test_a_share_without_a_lesson_leaves_the_next_one_before_the_first_update():
    learner, samples = fresh()
    idle = [dataclasses.replace(sample, advantage=0.0) for sample in samples[:6]]
    metrics = inner_updates(learner, [idle, samples[6:]], FAST, epochs=1, watch=watch())
    assert "off_policy/mismatch_max" in metrics
    assert "off_policy/staleness_max" not in metrics


def test_a_step_without_any_lesson_measures_nothing_and_rings_nothing():
    learner, samples = fresh()
    idle = [dataclasses.replace(sample, advantage=0.0) for sample in samples]
    metrics = inner_updates(learner, [idle], FAST, epochs=2, watch=watch())
    assert not any(name.startswith(("off_policy/", "alarm/")) for name in metrics)


def test_the_numbers_of_several_updates_are_means_but_for_extremes():
    rounds = [
        {"loss": 1.0, "x/max": 1.0, "off_policy/ess": 0.9, "off_policy/mismatch_alarm": 0.0},
        {"loss": 3.0, "x/max": 2.0, "off_policy/mismatch_alarm": 1.0},
    ]
    assert combine([*rounds, {"off_policy/ess": 0.5}]) == {
        "loss": 2.0,
        "x/max": 2.0,
        "off_policy/ess": 0.5,
        "off_policy/mismatch_alarm": 1.0,
    }


@pytest.mark.parametrize("wrong", [1e-2, -1e-2, math.nan])
def test_one_wrong_logprob_stops_the_step_before_anything_is_learned(wrong):
    learner, samples = fresh()
    where = samples[0].loss_mask.index(True)
    old = tuple(o + wrong if t == where else o for t, o in enumerate(samples[0].old_logprobs))
    samples[0] = dataclasses.replace(samples[0], old_logprobs=old)
    before = adapter(learner.model)
    with pytest.raises(SamplerMismatch, match=r"disagree.*float32 explains.*on_mismatch=warn"):
        inner_updates(learner, [samples], FAST, epochs=1, watch=watch())
    assert largest_difference(before, adapter(learner.model)) == 0
    assert learner.updates == 0


@pytest.mark.parametrize(
    ("mean", "largest", "rings"),
    [
        (9e-6, 9e-4, False),
        (1.1e-5, 9e-4, True),
        (9e-6, 1.1e-3, True),
        (math.nan, 0.0, True),
        (0.0, math.nan, True),
    ],
)
def test_either_bound_of_float32_rings_alone_and_so_does_what_is_no_number(mean, largest, rings):
    assert watch().is_exceeded({"drift/mean": mean, "drift/max": largest}) is rings


def test_a_small_error_of_every_token_rings_though_no_single_one_is_large():
    learner, samples = fresh()
    shifted = [
        dataclasses.replace(s, old_logprobs=tuple(o + 1e-4 for o in s.old_logprobs))
        for s in samples
    ]
    with pytest.raises(SamplerMismatch):
        inner_updates(learner, [shifted], FAST, epochs=1, watch=watch())


def test_warned_the_run_goes_on_is_told_once_and_keeps_the_alarm_on_its_curve():
    learner, samples = fresh()  # trap 23: these were sampled at temperature 1
    wrong = UpdateSettings(learning_rate=1e-2, temperature=0.7)
    said = []
    rung = watch("warn", said)
    for updates in (1, 2):
        metrics = inner_updates(learner, [samples], wrong, epochs=1, watch=rung)
        assert (metrics["off_policy/mismatch_alarm"], learner.updates) == (1.0, updates)
    assert len(said) == 1
    assert "train.checks.on_mismatch: warn" in said[0]


def test_dropout_rings():  # trap 25
    model = attach_lora(small_llama(byte_tokenizer()), rank=4, alpha=8, dropout=0.3, seed=0)
    for name, value in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(value, std=0.1)
    samples = on_policy(model.eval(), random_samples(1))
    with pytest.raises(SamplerMismatch):
        inner_updates(Learner(model), [samples], FAST, epochs=1, watch=watch())


def sampled_by_the_engine(model, tokenizer, *, temperature, refreshed=True):
    """Sample episodes of three turns with the real engine and the model's adapter."""
    samples = []
    with InProcessEngine(
        model, Chat(tokenizer, model=model.get_base_model()), max_context=600, max_batch=4
    ) as engine:
        if refreshed:
            engine.load_adapter(model)
        policy = engine.policy(temperature=temperature, max_new_tokens=8)
        for seed in range(4):
            dialogue = policy.open([Message("user", "go")], (), seed=seed)
            for _ in range(3):
                dialogue.reply()
                dialogue.observe([Message("user", "on")])
            samples.append(Sample.from_trace(dialogue.trace(), advantage=(-1.0) ** seed))
            dialogue.close()
    return samples


@pytest.fixture(scope="module")
def small():
    tokenizer = byte_tokenizer()
    model = attach_lora(small_llama(tokenizer), rank=4, alpha=8, seed=0)
    for name, value in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(value, std=0.1)
    return model, tokenizer


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_what_the_sampler_said_is_what_the_learner_finds(small, temperature):  # traps 4 and 23
    model, tokenizer = small
    samples = sampled_by_the_engine(model, tokenizer, temperature=temperature)
    metrics = inner_updates(
        Learner(model),
        [samples],
        UpdateSettings(learning_rate=0.0, temperature=temperature),
        epochs=1,
        watch=watch(),
    )
    assert metrics["sampling/importance_sampling_ratio/mean"] == pytest.approx(1.0, abs=1e-6)
    assert metrics["off_policy/mismatch_max"] < 1e-4
    wrong = UpdateSettings(temperature=temperature + 0.1)
    with pytest.raises(SamplerMismatch):
        inner_updates(Learner(model), [samples], wrong, epochs=1, watch=watch())


def test_a_sampler_that_did_not_take_the_adapter_over_rings(small):
    model, tokenizer = small
    stale = sampled_by_the_engine(model, tokenizer, temperature=1.0, refreshed=False)
    with pytest.raises(SamplerMismatch):
        inner_updates(Learner(model), [stale], FAST, epochs=1, watch=watch())


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        (
            "top_p=0.9",
            r"train\.sampling\.top_p: is not supported: it samples from a truncated distribution",
        ),
        (
            "top_k=50",
            r"train\.sampling\.top_k: is not supported: it samples from a truncated distribution",
        ),
        (
            "repetition_penalty=1.1",
            r"train\.sampling\.repetition_penalty: is not supported.*negative weight",
        ),
    ],
)
def test_sampling_that_the_loss_cannot_score_is_refused_with_the_reason(setting, reason):
    with pytest.raises(SpecError, match=reason):
        load_spec("guess", [f"train.sampling.{setting}"])
