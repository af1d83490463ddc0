"""The learner: exact steps in every layout, no update without advantages, exact resume."""

import dataclasses
import math

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from envgym.errors import UsageError
from envgym_trainer.batch import flat_batch
from envgym_trainer.learner.learner import Learner
from envgym_trainer.learner.update_settings import UpdateSettings
from tests.fakes.tiny_lora import LINEARS, VOCAB, random_samples, split_options, tiny_model

FAMILY = {
    "vocab_size": VOCAB,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}


def on_policy(model, samples, *, temperature=1.0):
    """Return the samples with the model's own logprobs, from a plain full forward pass."""
    fresh = []
    with torch.no_grad():
        for sample in samples:
            logits = model(input_ids=torch.tensor([sample.token_ids])).logits[0] / temperature
            old = (
                logits.double()
                .log_softmax(-1)[:-1]
                .gather(1, torch.tensor(sample.token_ids)[1:, None])
                .squeeze(1)
            )
            fresh.append(dataclasses.replace(sample, old_logprobs=(0.0, *old.tolist())))
    return fresh


def adapter(model):
    return {
        name: value.detach().clone()
        for name, value in model.named_parameters()
        if value.requires_grad
    }


def gradient_of_update(samples, **options):
    """Return the gradient that one step passes to the optimizer."""
    options, settings = split_options(options)
    learner = Learner(tiny_model(), max_grad_norm=1e9, **options)
    seen = {}
    learner.optimizer.step = lambda: seen.update(
        {name: value.grad.clone() for name, value in learner.parameters.items()}
    )
    learner.update(samples, settings)
    return seen


def largest_difference(left, right):
    assert left.keys() == right.keys()
    return max((left[name] - right[name]).abs().max().item() for name in left)


@pytest.mark.parametrize("kl_coef", [0.0, 0.1])
@pytest.mark.parametrize(
    ("layout", "budget"), [("flat", 20), ("flat", 60), ("tree", 1), ("tree", 30), ("tree", 10_000)]
)
def test_the_gradient_is_the_same_for_every_layout_and_micro_batch(layout, budget, kl_coef):
    # sampled by another policy: ratios differ from 1, some are clipped
    samples = on_policy(tiny_model(seed=1), random_samples(0))
    reference = gradient_of_update(
        samples, layout="flat", max_tokens_per_micro_batch=10_000, kl_coef=kl_coef
    )
    gradient = gradient_of_update(
        samples, layout=layout, max_tokens_per_micro_batch=budget, kl_coef=kl_coef
    )
    assert largest_difference(gradient, reference) < 1e-9


def test_the_gradient_does_not_depend_on_the_order_of_the_samples():
    samples = random_samples(1)
    assert largest_difference(gradient_of_update(samples), gradient_of_update(samples[::-1])) < 1e-9


def test_dropping_samples_without_advantage_changes_neither_gradient_nor_denominator():
    samples = random_samples(2)
    idle = [
        dataclasses.replace(sample, advantage=0.0) if index % 3 else sample
        for index, sample in enumerate(samples)
    ]
    not_dropped = [
        dataclasses.replace(sample, advantage=sample.advantage or 1e-30) for sample in idle
    ]
    assert largest_difference(gradient_of_update(idle), gradient_of_update(not_dropped)) < 1e-12


def test_with_a_kl_penalty_samples_without_advantage_still_pull_towards_the_reference():
    idle = [dataclasses.replace(sample, advantage=0.0) for sample in random_samples(2)]
    assert gradient_of_update(idle) == {}
    assert max(value.abs().max() for value in gradient_of_update(idle, kl_coef=0.1).values()) > 0


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_ratio_is_one_when_the_old_logprobs_come_from_the_same_weights(temperature):
    model = tiny_model(dtype=torch.float32)
    samples = on_policy(model, random_samples(4), temperature=temperature)
    metrics = Learner(model).update(samples, UpdateSettings(temperature=temperature))
    assert metrics["sampling/sampling_logp_difference/max"] < 1e-5
    assert metrics["sampling/importance_sampling_ratio/mean"] == pytest.approx(1.0, abs=1e-6)
    assert metrics["clip_ratio/region_mean"] == 0.0


def test_a_step_makes_good_episodes_likelier_and_bad_ones_rarer():
    model = tiny_model(dtype=torch.float32)
    good, bad = (
        dataclasses.replace(sample, advantage=a)
        for sample, a in zip(random_samples(6)[:2], (1.0, -1.0), strict=True)
    )
    good, bad = on_policy(model, [good, bad])
    learner = Learner(model)
    learner.update([good, bad], UpdateSettings(learning_rate=1e-2))
    after_good, after_bad = on_policy(model, [good, bad])
    masked = lambda sample: sum(
        old for old, sampled in zip(sample.old_logprobs, sample.loss_mask, strict=True) if sampled
    )
    assert masked(after_good) > masked(good)
    assert masked(after_bad) < masked(bad)


def test_sft_learns_a_demonstration_by_heart():
    learner = Learner(tiny_model(dtype=torch.float32))
    losses = [
        learner.supervised_update(random_samples(7)[:1], UpdateSettings(learning_rate=2e-2))["loss"]
        for _ in range(40)
    ]
    assert losses[-1] < 0.2 * losses[0]


def test_the_sft_loss_is_the_weighted_mean_over_sampled_tokens_alone():
    model = tiny_model()
    samples = random_samples(8)
    own = on_policy(model, samples)
    terms = [
        (s.weight, old)
        for s in own
        for old, sampled in zip(s.old_logprobs, s.loss_mask, strict=True)
        if sampled
    ]
    expected = -sum(weight * old for weight, old in terms) / sum(weight for weight, _ in terms)
    assert Learner(model).supervised_update(samples, UpdateSettings())["loss"] == pytest.approx(
        expected, abs=1e-6
    )


def test_nan_where_the_mask_is_false_changes_nothing():
    samples = random_samples(9)
    dirty = [
        dataclasses.replace(
            s,
            old_logprobs=tuple(
                o if m else math.nan for o, m in zip(s.old_logprobs, s.loss_mask, strict=True)
            ),
        )
        for s in samples
    ]
    clean_metrics = Learner(tiny_model()).update(samples, UpdateSettings())
    dirty_metrics = Learner(tiny_model()).update(dirty, UpdateSettings())
    assert clean_metrics == dirty_metrics


def test_a_step_that_is_not_finite_is_skipped_and_counted_and_touches_nothing():
    model = tiny_model(dtype=torch.float32)
    samples = random_samples(10)
    learner = Learner(model)
    learner.update(samples, UpdateSettings())
    before = adapter(model)
    moments = {i: s["exp_avg"].clone() for i, s in enumerate(learner.optimizer.state.values())}
    metrics = learner.update(
        [dataclasses.replace(samples[0], advantage=math.inf), *samples[1:]], UpdateSettings()
    )
    assert (metrics["optimizer/skipped_updates"], learner.updates) == (1.0, 1)
    assert largest_difference(before, adapter(model)) == 0
    assert all(
        torch.equal(moments[i], s["exp_avg"])
        for i, s in enumerate(learner.optimizer.state.values())
    )
    assert learner.update(samples, UpdateSettings())["grad_norm"] > 0  # the next update works again
    assert learner.updates == 2


def test_a_step_without_a_lesson_makes_no_update_and_no_momentum_drift():
    model = tiny_model(dtype=torch.float32)
    samples = random_samples(11)
    learner = Learner(model, weight_decay=0.1)
    learner.update(samples, UpdateSettings())
    before = adapter(model)
    metrics = learner.update(
        [dataclasses.replace(sample, advantage=0.0) for sample in samples], UpdateSettings()
    )
    assert largest_difference(before, adapter(model)) == 0
    assert (metrics["grad_norm"], metrics["batch/frac_without_gradient"], learner.updates) == (
        0.0,
        1.0,
        1,
    )
    assert learner.update([], UpdateSettings())["loss"] == 0.0


def test_only_the_adapter_moves():
    model = tiny_model(dtype=torch.float32)
    base = {
        name: value.clone() for name, value in model.named_parameters() if not value.requires_grad
    }
    Learner(model).update(random_samples(12), UpdateSettings(learning_rate=1e-2))
    assert all(
        torch.equal(base[name], value) for name, value in model.named_parameters() if name in base
    )


def test_the_gradient_norm_is_clipped_and_reported_before_clipping():
    model = tiny_model(dtype=torch.float32)
    learner = Learner(model, max_grad_norm=1e-3)
    norms = []
    learner.optimizer.step = lambda: norms.append(
        torch.stack([p.grad.norm() for p in learner.parameters.values()]).norm().item()
    )
    assert learner.update(random_samples(13), UpdateSettings())["grad_norm"] > 1e-3
    assert norms[0] == pytest.approx(1e-3, rel=1e-3)


def test_the_learning_rate_warms_up_linearly_and_then_stays_for_any_micro_batch():
    learner = Learner(
        tiny_model(dtype=torch.float32), warmup_steps=4, max_tokens_per_micro_batch=20
    )
    rates = [
        learner.supervised_update(random_samples(14), UpdateSettings(learning_rate=1e-3))[
            "learning_rate"
        ]
        for _ in range(6)
    ]
    assert rates == pytest.approx([0.25e-3, 0.5e-3, 0.75e-3, 1e-3, 1e-3, 1e-3])


@pytest.mark.parametrize("layout", ["tree", "flat"])
def test_two_n_steps_equal_n_steps_a_save_a_load_and_n_steps_to_the_bit(layout, tmp_path):
    steps = [random_samples(seed) for seed in range(6)]
    options = {"warmup_steps": 5, "weight_decay": 0.01, "layout": layout}
    settings = UpdateSettings(learning_rate=1e-2)
    straight = Learner(tiny_model(dtype=torch.float32), **options)
    for samples in steps:
        straight.update(samples, settings)
    first = Learner(tiny_model(dtype=torch.float32), **options)
    for samples in steps[:3]:
        first.update(samples, settings)
    torch.save(first.state_dict(), tmp_path / "learner.pt")
    second = Learner(tiny_model(dtype=torch.float32), **options)
    second.load_state_dict(torch.load(tmp_path / "learner.pt", weights_only=True))
    for samples in steps[3:]:
        second.update(samples, settings)
    assert largest_difference(adapter(straight.model), adapter(second.model)) == 0
    assert second.updates == 6


def test_a_checkpoint_of_another_adapter_is_refused():
    state = Learner(tiny_model()).state_dict()
    state["adapter"].popitem()
    with pytest.raises(UsageError, match="another adapter"):
        Learner(tiny_model()).load_state_dict(state)


@pytest.mark.parametrize(("dropout", "same"), [(0.0, True), (0.5, False)])
def test_nothing_is_dropped_while_learning_but_by_the_adapters_own_dropout(dropout, same):
    torch.manual_seed(0)
    base = LlamaForCausalLM(LlamaConfig(**FAMILY, attention_dropout=0.5))
    model = get_peft_model(
        base, LoraConfig(r=4, target_modules=LINEARS, lora_dropout=dropout, init_lora_weights=False)
    )
    first, second = (
        Learner(model.train()).update(random_samples(15), UpdateSettings(learning_rate=0.0))["loss"]
        for _ in range(2)
    )
    assert (first == second) is same


@pytest.mark.parametrize(
    "family", [(Qwen2ForCausalLM, Qwen2Config), (MistralForCausalLM, MistralConfig)]
)
def test_other_families_train_on_the_tree_as_on_padded_rows(family):
    model_class, config_class = family
    torch.manual_seed(0)
    samples = random_samples(16)
    model = get_peft_model(
        model_class(config_class(**FAMILY)), LoraConfig(r=4, target_modules=LINEARS)
    ).double()
    losses = [
        Learner(model, layout=layout).supervised_update(samples, UpdateSettings(learning_rate=0.0))[
            "loss"
        ]
        for layout in ("tree", "flat")
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-9)


def test_a_window_shorter_than_the_conversation_is_refused_on_the_tree_and_served_by_padded_rows():
    config = MistralConfig(**FAMILY, sliding_window=4)
    model = get_peft_model(MistralForCausalLM(config), LoraConfig(r=4, target_modules=LINEARS))
    with pytest.raises(UsageError, match=r"a window of 4 tokens.*layout='flat'"):
        Learner(model).supervised_update(random_samples(18), UpdateSettings())
    assert (
        Learner(model, layout="flat").supervised_update(random_samples(18), UpdateSettings())[
            "loss"
        ]
        > 0
    )


def test_metrics_tell_how_much_was_shared():
    samples = random_samples(17)
    metrics = Learner(tiny_model()).supervised_update(samples, UpdateSettings())
    assert metrics["batch/compression"] == pytest.approx(
        flat_batch(samples).num_tokens / metrics["batch/forward_tokens"]
    )
    assert metrics["batch/compression"] > 1.5


def test_a_trainable_head_is_refused():
    config = LlamaConfig(**FAMILY, tie_word_embeddings=False)
    model = get_peft_model(
        LlamaForCausalLM(config), LoraConfig(r=4, target_modules=[*LINEARS, "lm_head"])
    )
    with pytest.raises(UsageError, match="Leave lm_head out"):
        Learner(model)


def test_a_model_without_an_adapter_to_train_is_refused():
    model = tiny_model()
    model.requires_grad_(False)
    with pytest.raises(UsageError, match="is_trainable=True"):
        Learner(model)
