"""`train.algorithm`: what the presets are, which advantage each token of an episode gets, and the gradient that comes of it."""

import dataclasses
import math

import pytest
import torch

from envgym.episode import Episode, Failure
from envgym.errors import SpecError, UsageError
from envgym.messages import Message
from envgym.policies import TokenTrace
from envgym.spec.environment import load_spec
from envgym.terms import Term
from envgym_trainer.algorithms.aggregation import aggregated
from envgym_trainer.algorithms.credit import samples_of
from envgym_trainer.algorithms.credit_states import anchor_states
from envgym_trainer.config import TrainConfig
from envgym_trainer.config.algorithm import PRESETS, AlgorithmConfig
from envgym_trainer.learner.learner import Learner
from tests.fakes.tiny_lora import random_samples, tiny_model
from tests.trainer.learner.test_learner import adapter, largest_difference, on_policy

SAID = "hit"


def config(*settings):
    return TrainConfig.of(load_spec("guess", [f"train.{setting}" for setting in settings]).train)


def algorithm(*settings):
    return config(*settings).algorithm


WEIGHTS = {"solved": 1.0, "brief": 0.1, "watched": 0.0}


def episode(rewards, *, observations=None, parts=None, mistakes=(), truncated=False):
    """Turns of two sampled tokens each, after a prompt of two; one token is heard after every turn but the last."""
    terms = {name: Term(value, value, WEIGHTS[name]) for name, value in (parts or {}).items()}
    turns = len(rewards)
    heard = [*(observations or ["ok"] * (turns - 1)), ""]
    mask = [False, False]
    messages = [Message("user", "go")]
    for turn in range(turns):
        last = turn == turns - 1
        mask += [True, True] + [False] * (not last)
        messages += [Message("assistant", SAID)] + [Message("tool", heard[turn])] * (not last)
    trace = TokenTrace(
        tuple(range(len(mask))), tuple(mask), tuple(-1.0 if sampled else 0.0 for sampled in mask)
    )
    return Episode(
        "e",
        "t",
        "train",
        "",
        "",
        0,
        tuple(messages),
        trace,
        sum(rewards),
        parts or {},
        terms,
        truncated=truncated,
        turns=turns,
        turn_rewards=tuple(rewards),
        turn_mistakes=tuple(mistakes),
    )


VOID = Episode(
    "e", "t", "train", "", "", 0, (), None, None, failure=Failure("sandbox_lost", "call", "")
)


# --- settings ---------------------------------------------------------------------------------------------------------------


def test_without_an_algorithm_nothing_changes():
    plain = config()
    assert plain.algorithm == AlgorithmConfig()
    assert (plain.clip_low, plain.clip_high, plain.kl_coef, plain.scale_by_std) == (
        0.2,
        0.28,
        0.0,
        True,
    )
    assert (plain.algorithm.loss, plain.algorithm.advantage, plain.algorithm.aggregation) == (
        "grpo",
        "group",
        "token",
    )


def test_what_is_written_goes_over_the_preset():
    mixed = config("algorithm.preset=gspo", "algorithm.aggregation=token", "clip_high=0.01")
    assert (mixed.algorithm.loss, mixed.algorithm.aggregation, mixed.clip_low, mixed.clip_high) == (
        "gspo",
        "token",
        3e-4,
        0.01,
    )


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_written_out_is_the_same_settings_again(name):
    given = config(f"algorithm={name}")
    assert TrainConfig.of(given.model_dump(mode="json", by_alias=True)) == given


def test_the_old_key_for_the_deviation_keeps_working():
    assert algorithm("scale_by_std=false").std == "none"
    assert algorithm("algorithm=dr_grpo").std == "none"
    assert config("algorithm=dr_grpo").scale_by_std is False


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("algorithm=gsop", "is 'gsop', did you mean 'gspo'"),
        ("algorithm={kl: k1}", "expected gradient of 0. Use kl_place: reward"),
        (
            "algorithm={advantage: rloo, std: group}",
            "advantage 'rloo' has std 'none'. Leave std out",
        ),
        ("algorithm={advantage: gdpo, credit: turns}", "use credit 'steps'"),
        ("algorithm={mistake_penalty: 0.1}", "belongs to a turn"),
        (
            "algorithm={overlong: {max_tokens: 3, cache_tokens: 5}}",
            r"cache_tokens \(5\) must not exceed max_tokens \(3\)",
        ),
        ("algorithm={preset: dr_grpo, los: gspo}", "did you mean 'loss'"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused_with_the_way_out(setting, said):
    with pytest.raises(SpecError, match=said):
        config(setting)


@pytest.mark.parametrize("contradiction", ["algorithm=rloo", "algorithm={std: none}"])
def test_two_settings_that_contradict_each_other_are_refused(contradiction):
    with pytest.raises(
        SpecError, match=r"scale_by_std is true, but algorithm '\w+' has std 'none'"
    ):
        config(contradiction, "scale_by_std=true")
    assert (
        algorithm("algorithm=dr_grpo", "scale_by_std=true").std == "group"
    )  # over a preset, what is written counts


# --- from episodes to the advantage of each token -----------------------------------------------------------------------------


def test_a_turns_reward_lands_on_its_tokens_and_on_earlier_ones_and_on_none_after_it():
    group = [episode([0.0, 4.0, 1.0]), episode([0.0])]
    first, second = samples_of([group], AlgorithmConfig(credit="turns", discount=0.5, std="none"))
    # returns of the first: 0 + (4 + 1/2)/2 = 2.25, 4.5, 1; mean 2.5833; the group's mean with the second's 0 is 1.2917
    base = (2.25 + 4.5 + 1.0) / 3 / 2
    turns = [2.25 - base, 4.5 - base, 1.0 - base]
    #        prompt  turn 1               heard  turn 2              heard  turn 3
    expected = [0, 0, turns[0], turns[0], 0, turns[1], turns[1], 0, turns[2], turns[2]]
    assert first.token_advantages == pytest.approx(expected, abs=1e-6)
    assert second.token_advantages == pytest.approx([0, 0, -base, -base], abs=1e-6)


def test_a_mistake_costs_the_turn_that_made_it_and_those_before():
    clumsy = episode([0.0, 0.0, 0.0], mistakes=(0, 2, 0))
    clean = episode([0.0, 0.0, 0.0], mistakes=(0, 0, 0))
    options = {"credit": "turns", "discount": 1.0, "std": "none", "mistake_penalty": 0.3}
    first, second = samples_of([[clumsy, clean]], AlgorithmConfig(**options))
    base = -0.6 * 2 / 3 / 2  # the first's turns return -0.6, -0.6 and 0
    assert [first.token_advantages[t] for t in (2, 5, 8)] == pytest.approx(
        [-0.6 - base, -0.6 - base, -base]
    )
    assert [second.token_advantages[t] for t in (2, 5, 8)] == pytest.approx([-base] * 3)


def test_step_groups_add_what_a_turn_did_against_others_from_its_state():
    # All three start alike. The first two hear "a", the third "b": two turns from state "a", one from "b".
    group = [
        episode([0.0, 1.0], observations=["a"]),
        episode([0.0, 0.0], observations=["a"]),
        episode([0.0, 0.0], observations=["b"]),
    ]
    options = {"credit": "steps", "discount": 0.5, "std": "none", "step_weight": 2.0}
    samples = samples_of([group], AlgorithmConfig(**options))
    found = [[sample.token_advantages[t] for t in (2, 5)] for sample in samples]
    start = [0.5 - 0.5 / 3, -0.5 / 3, -0.5 / 3]  # returns of the first turns: 0.5, 0, 0
    whole = [2 / 3, -1 / 3, -1 / 3]
    expected = [
        [whole[0] + 2 * start[0], whole[0] + 2 * 0.5],
        [whole[1] + 2 * start[1], whole[1] - 2 * 0.5],
        [whole[2] + 2 * start[2], whole[2]],
    ]
    assert [value for row in found for value in row] == pytest.approx(
        [value for row in expected for value in row]
    )


def test_states_of_other_groups_are_never_compared():
    alone = samples_of([[episode([1.0]), episode([0.0])]], AlgorithmConfig(credit="steps"))
    beside = samples_of(
        [[episode([1.0]), episode([0.0])], [episode([7.0]), episode([7.0])]],
        AlgorithmConfig(credit="steps"),
    )
    assert [s.token_advantages for s in beside[:2]] == [s.token_advantages for s in alone]


def test_an_anchor_is_the_same_history_or_the_same_last_observation():
    left = episode([0.0] * 3, observations=["a", "x"])
    right = episode([0.0] * 3, observations=["b", "x"])
    equal = lambda by: [
        a == b for a, b in zip(anchor_states(left, by), anchor_states(right, by), strict=True)
    ]
    assert equal("history") == [True, False, False]
    assert equal("observation") == [True, False, True]
    assert len(set(anchor_states(left, "history"))) == 3


def test_gdpo_hears_each_part_and_what_the_parts_do_not_explain():
    forbidden = episode([0.0], parts={"solved": 1.0, "brief": 0.0, "watched": 5.0})
    group = [
        episode([1.0], parts={"solved": 1.0, "brief": 0.0, "watched": 9.0}),
        episode([0.1], parts={"solved": 0.0, "brief": 1.0, "watched": 0.0}),
        forbidden,  # it touched what it must not, so its reward is 0 whatever its parts say
        VOID,
    ]
    solved, brief, bad = samples_of([group], AlgorithmConfig(advantage="gdpo"))
    assert solved.advantage > 0 > bad.advantage
    without = samples_of([group[:2]], AlgorithmConfig(advantage="gdpo"))
    assert [sample.advantage for sample in without] == pytest.approx([1.0, -1.0], abs=1e-3)


def test_overlong_episodes_are_punished_and_cut_ones_can_be_masked():
    group = [episode([1.0]), episode([0.0, 0.0, 1.0], truncated=True)]  # 2 and 6 sampled tokens
    options = {
        "std": "none",
        "overlong": {"max_tokens": 6, "cache_tokens": 2},
        "mask_truncated": True,
    }
    short, long = samples_of([group], AlgorithmConfig.model_validate(options))
    assert (short.advantage, long.advantage) == (0.5, -0.5)
    assert (short.weight, long.weight) == (1.0, 0.0)


def test_credit_for_turns_needs_a_reward_for_each():
    old_record = dataclasses.replace(episode([0.0, 1.0]), turn_rewards=())
    with pytest.raises(
        UsageError, match=r"2 turns of sampled tokens but 0 turn rewards.*credit=episode"
    ):
        samples_of([[old_record, old_record]], AlgorithmConfig(credit="turns"))


def test_a_step_whose_groups_differ_in_size_is_served():
    samples = samples_of(
        [[episode([1.0]), episode([0.0]), episode([0.0])], [episode([1.0]), episode([0.0])]],
        AlgorithmConfig(std="none"),
    )
    assert [sample.advantage for sample in samples] == pytest.approx(
        [2 / 3, -1 / 3, -1 / 3, 0.5, -0.5]
    )


# --- the step -----------------------------------------------------------------------------------------------------------------


def test_aggregation_by_hand():
    long, short = (
        dataclasses.replace(s, weight=1.0)
        for s in sorted(random_samples(3), key=lambda s: -s.num_actions)[::11]
    )
    n = long.num_actions
    m = short.num_actions
    assert aggregated([long, short], "token")[1] == n + m
    assert aggregated([long, short], "constant", constant_length=50)[1] == 100
    weighed, denominator = aggregated([long, short], "sequence")
    assert ([s.weight for s in weighed], denominator) == ([1 / n, 1 / m], 2)


def gradient(samples, *, layout="tree", budget=10_000, kl_coef=0.0, clips=None, **settings):
    """The gradient that one step hands to the optimiser."""
    chosen = TrainConfig.of({"algorithm": settings} | (clips or {}))
    learner = Learner(
        tiny_model(),
        max_grad_norm=1e9,
        layout=layout,
        max_tokens_per_micro_batch=budget,
        kl_coef=kl_coef,
        clip_low=chosen.clip_low,
        clip_high=chosen.clip_high,
        algorithm=chosen.algorithm,
        constant_length=7,
    )
    seen = {}
    learner.optimizer.step = lambda: seen.update(
        {name: value.grad.clone() for name, value in learner.parameters.items()}
    )
    learner.grpo_step(samples)
    return seen


def stale_samples():
    """Sampled by a policy a little off the one that learns, with an advantage for each token."""
    samples = on_policy(tiny_model(seed=1), random_samples(0))
    torch.manual_seed(0)
    return [
        dataclasses.replace(s, token_advantages=tuple(torch.randn(len(s.token_ids)).tolist()))
        for s in samples
    ]


def by_the_formula(samples, loss, *, aggregation, clip_low, clip_high):
    """The gradient of the paper's formula, one plain forward a sample and autograd, in float64."""
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
        **clips,
        algorithm=AlgorithmConfig(loss=loss, aggregation=aggregation),
        constant_length=7,
    )
    seen = {}
    learner.optimizer.step = lambda: seen.update(
        {name: value.grad.clone() for name, value in learner.parameters.items()}
    )
    learner.grpo_step(samples)
    assert (
        largest_difference(seen, expected) < 1e-7
    )  # old logprobs and advantages are kept in float32


CORRECTED = {"correction": {"mode": "mask", "level": "sequence", "cap": 3.0}}
IN_REWARD = {"kl": "k1", "kl_place": "reward"}


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
            largest_difference(gradient(samples, aggregation=how), gradient(kept, aggregation=how))
            < 1e-12
        )


def test_truncated_importance_sampling_weighs_by_the_first_scoring_and_measures_the_ratio_from_there():
    samples = stale_samples()
    learner = Learner(
        tiny_model(),
        algorithm=AlgorithmConfig.model_validate({"correction": {"mode": "truncate", "cap": 1.0}}),
    )
    scored = learner.scored(samples)
    own = on_policy(tiny_model(), samples)
    for s, o in zip(scored, own, strict=True):
        assert s.scored_logprobs == pytest.approx(
            [v if m else 0.0 for v, m in zip(o.old_logprobs, o.loss_mask, strict=True)], abs=1e-6
        )
    before = adapter(learner.model)
    metrics = learner.grpo_step(scored)
    assert metrics["sampling/importance_sampling_ratio/max"] == pytest.approx(
        1.0, abs=1e-5
    )  # nothing was updated in between
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
    assert (
        learner.scored(scored) == scored
    )  # a second update of the same samples keeps the first scoring


def test_truncation_pulls_like_a_clipped_weight_and_a_mask_of_everything_not_at_all():
    samples = stale_samples()  # at the first update the ratio is 1, so the truncated weight is all that is left of it: CISPO's
    truncated = gradient(samples, correction={"mode": "truncate", "cap": 1.5})
    assert (
        largest_difference(
            truncated, gradient(samples, preset="cispo", clips={"clip_low": 1.0, "clip_high": 0.5})
        )
        < 1e-7
    )
    assert largest_difference(truncated, gradient(samples)) > 1e-4
    masked = gradient(samples, correction={"mode": "mask", "cap": 1.0, "floor": 1.0})
    assert max(value.abs().max() for value in masked.values()) == 0


def test_kl_in_the_reward_lowers_each_tokens_advantage_by_the_kl_from_there_to_the_end_of_its_episode():
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
