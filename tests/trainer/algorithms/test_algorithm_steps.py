"""The step of the learner follows the written formulas of its algorithm."""

import dataclasses
import math

import pytest
import torch

from envgym_trainer.algorithms.aggregation import weigh_samples
from envgym_trainer.config.algorithm import AlgorithmConfig
from envgym_trainer.learner.learner import Learner
from envgym_trainer.learner.update_settings import UpdateSettings
from tests.fakes.tiny_lora import random_samples, tiny_model
from tests.trainer.learner.test_learner import adapter, largest_difference, on_policy


def test_aggregation_by_hand():
    long, short = (
        dataclasses.replace(s, weight=1.0)
        for s in sorted(random_samples(3), key=lambda s: -s.num_actions)[::11]
    )
    n = long.num_actions
    m = short.num_actions
    assert weigh_samples([long, short], "token")[1] == n + m
    assert weigh_samples([long, short], "constant", constant_length=50)[1] == 100
    weighed, denominator = weigh_samples([long, short], "sequence")
    assert ([s.weight for s in weighed], denominator) == ([1 / n, 1 / m], 2)


def gradient(samples, *, layout="tree", budget=10_000, kl_coef=0.0, **settings):
    """Return the gradient that one step passes to the optimizer."""
    chosen = AlgorithmConfig.model_validate(settings)
    learner = Learner(
        tiny_model(),
        max_grad_norm=1e9,
        layout=layout,
        max_tokens_per_micro_batch=budget,
        algorithm=chosen,
        constant_length=7,
    )
    seen = {}
    learner.optimizer.step = lambda: seen.update(
        {name: value.grad.clone() for name, value in learner.parameters.items()}
    )
    learner.update(
        samples,
        UpdateSettings(
            kl_coef=kl_coef, clip_low=chosen.loss.clip_low, clip_high=chosen.loss.clip_high
        ),
    )
    return seen


def stale_samples():
    """Return samples of a slightly different policy, with an advantage for each token."""
    samples = on_policy(tiny_model(seed=1), random_samples(0))
    torch.manual_seed(0)
    return [
        dataclasses.replace(s, token_advantages=tuple(torch.randn(len(s.token_ids)).tolist()))
        for s in samples
    ]


def by_the_formula(samples, loss, *, aggregation, clip_low, clip_high):
    """Return the gradient of the paper's formula: plain forward passes and autograd in float64."""
    model = tiny_model()
    total = 0.0
    weights = {"token": lambda n: 1.0, "sequence": lambda n: 1 / n, "constant": lambda n: 1.0}[
        aggregation
    ]
    mass = sum(s.weight for s in samples)
    denominator = {
        "token": sum(s.weight * s.num_actions for s in samples),
        "sequence": mass,
        "constant": 7 * mass,
    }[aggregation]
    for s in samples:
        rows = [t for t, sampled in enumerate(s.loss_mask) if sampled]
        logits = model(input_ids=torch.tensor([s.token_ids])).logits[0]
        now = torch.stack([logits[t - 1].log_softmax(-1)[s.token_ids[t]] for t in rows])
        old, a = (
            torch.tensor([values[t] for t in rows]).double()
            for values in (s.old_logprobs, s.token_advantages)
        )
        ratio = (now - old).exp()
        if loss == "gspo":
            ratio = (now - old).detach().mean().exp() * now.exp() / now.detach().exp()
        low = 1 - clip_low
        high = 1 + clip_high
        terms = {
            "grpo": torch.minimum(ratio * a, ratio.clamp(low, high) * a),
            "gspo": torch.minimum(ratio * a, ratio.clamp(low, high) * a),
            "cispo": ratio.detach().clamp(low, high) * a * now,
            "reinforce": a * now,
        }
        total = total - s.weight * weights(len(rows)) * terms[loss].sum() / denominator
    total.backward()
    return {name: value.grad for name, value in model.named_parameters() if value.requires_grad}


@pytest.mark.parametrize(
    ("loss", "aggregation"),
    [
        ("grpo", "sequence"),
        ("grpo", "constant"),
        ("gspo", "sequence"),
        ("cispo", "token"),
        ("reinforce", "constant"),
    ],
)
def test_a_steps_gradient_is_that_of_the_written_formula(loss, aggregation):
    clips = {"clip_low": 0.3, "clip_high": 0.4}
    samples = stale_samples()
    expected = None
    expected = by_the_formula(samples, loss, aggregation=aggregation, **clips)
    learner = Learner(
        tiny_model(),
        max_grad_norm=1e9,
        algorithm=AlgorithmConfig.model_validate(
            {"loss": {"name": loss}, "aggregation": {"kind": aggregation}}
        ),
        constant_length=7,
    )
    seen = {}
    learner.optimizer.step = lambda: seen.update(
        {name: value.grad.clone() for name, value in learner.parameters.items()}
    )
    learner.update(samples, UpdateSettings(**clips))
    # old logprobs and advantages are stored in float32
    assert largest_difference(seen, expected) < 1e-7


CORRECTED = {"importance_weights": {"mode": "mask", "per": "sequence", "max": 3.0}}
IN_REWARD = {"kl": {"estimator": "k1", "place": "reward"}}


@pytest.mark.parametrize(
    "settings",
    [
        *({"preset": n} for n in ("grpo", "dr_grpo", "gspo", "cispo", "rloo")),
        CORRECTED,
        {"preset": "gspo"} | CORRECTED,
        IN_REWARD,
    ],
    ids=str,
)
def test_the_gradient_is_the_same_for_every_layout_and_micro_batch(settings):
    samples = stale_samples()
    kl_coef = 0.1 if settings is IN_REWARD else 0.0
    reference = gradient(samples, layout="flat", kl_coef=kl_coef, **settings)
    assert max(value.abs().max() for value in reference.values()) > 1e-6
    for layout, budget in (("flat", 20), ("tree", 1), ("tree", 40)):
        assert (
            largest_difference(
                gradient(samples, layout=layout, budget=budget, kl_coef=kl_coef, **settings),
                reference,
            )
            < 1e-9
        )


@pytest.mark.parametrize("settings", [{"preset": "gspo"}, {"preset": "cispo"}, CORRECTED], ids=str)
def test_nan_where_the_mask_is_false_changes_nothing(settings):
    holes = lambda values, mask: tuple(
        value if sampled else math.nan for value, sampled in zip(values, mask, strict=True)
    )
    clean = stale_samples()
    dirty = [
        dataclasses.replace(
            s,
            old_logprobs=holes(s.old_logprobs, s.loss_mask),
            token_advantages=holes(s.token_advantages, s.loss_mask),
        )
        for s in clean
    ]
    assert largest_difference(gradient(clean, **settings), gradient(dirty, **settings)) == 0


def test_dropping_samples_without_advantage_changes_nothing_for_any_aggregation():
    samples = [
        dataclasses.replace(s, token_advantages=None, advantage=0.0) if n % 3 else s
        for n, s in enumerate(stale_samples())
    ]
    kept = [
        dataclasses.replace(s, advantage=1e-30) if s.token_advantages is None else s
        for s in samples
    ]
    for how in ("token", "sequence", "constant"):
        assert (
            largest_difference(
                gradient(samples, aggregation={"kind": how}),
                gradient(kept, aggregation={"kind": how}),
            )
            < 1e-12
        )


def test_truncated_importance_sampling_weighs_and_measures_by_the_first_scoring():
    samples = stale_samples()
    learner = Learner(
        tiny_model(),
        algorithm=AlgorithmConfig.model_validate(
            {"importance_weights": {"mode": "truncate", "max": 1.0}}
        ),
    )
    scored = learner.with_trainer_logprobs(samples, UpdateSettings())
    own = on_policy(tiny_model(), samples)
    for s, o in zip(scored, own, strict=True):
        assert s.trainer_logprobs == pytest.approx(
            [v if m else 0.0 for v, m in zip(o.old_logprobs, o.loss_mask, strict=True)], abs=1e-6
        )
    before = adapter(learner.model)
    metrics = learner.update(scored, UpdateSettings())
    # no update happened in between
    assert metrics["sampling/importance_sampling_ratio/max"] == pytest.approx(1.0, abs=1e-5)
    weights = [
        min(1.0, math.exp(v - w))
        for s, o in zip(samples, own, strict=True)
        for v, w, m in zip(o.old_logprobs, s.old_logprobs, s.loss_mask, strict=True)
        if m
    ]
    assert metrics["correction/weight"] == pytest.approx(sum(weights) / len(weights), abs=1e-5)
    assert metrics["correction/changed"] == pytest.approx(
        sum(w == 1.0 for w in weights) / len(weights)
    )
    assert largest_difference(before, adapter(learner.model)) > 0
    # a second update on the same samples keeps the first scores
    assert learner.with_trainer_logprobs(scored, UpdateSettings()) == scored


def test_truncation_pulls_like_a_clipped_weight_and_a_mask_of_everything_not_at_all():
    # At the first update the ratio is 1: only the truncated weight is left, as in CISPO.
    samples = stale_samples()
    truncated = gradient(samples, importance_weights={"mode": "truncate", "max": 1.5})
    assert (
        largest_difference(
            truncated, gradient(samples, preset="cispo", loss={"clip_low": 1.0, "clip_high": 0.5})
        )
        < 1e-7
    )
    assert largest_difference(truncated, gradient(samples)) > 1e-4
    masked = gradient(samples, importance_weights={"mode": "mask", "max": 1.0, "min": 1.0})
    assert max(value.abs().max() for value in masked.values()) == 0


def test_kl_in_the_reward_lowers_each_tokens_advantage_by_the_kl_of_the_rest():
    model = tiny_model()
    samples = on_policy(tiny_model(), random_samples(0))
    with model.disable_adapter():
        reference = on_policy(model, samples)
    lowered = []
    for s, r in zip(samples, reference, strict=True):
        k1 = [
            a - b if sampled else 0.0
            for a, b, sampled in zip(s.old_logprobs, r.old_logprobs, s.loss_mask, strict=True)
        ]
        to_go = [sum(k1[t:]) for t in range(len(k1))]
        lowered.append(
            dataclasses.replace(
                s, token_advantages=tuple(s.advantage - 0.3 * value for value in to_go)
            )
        )
    found = gradient(samples, kl_coef=0.3, **IN_REWARD)
    assert largest_difference(found, gradient(lowered)) < 1e-6
    assert largest_difference(found, gradient(samples)) > 1e-4
