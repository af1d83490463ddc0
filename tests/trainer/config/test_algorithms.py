"""`train.algorithm`: the presets, the advantage of each token, and the resulting gradient."""

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
from envgym_trainer.algorithms.aggregation import weigh_samples
from envgym_trainer.algorithms.conversation_states import state_keys
from envgym_trainer.algorithms.credit import build_samples
from envgym_trainer.config import TrainConfig
from envgym_trainer.config.algorithm import AdvantageConfig, AlgorithmConfig
from envgym_trainer.config.presets import preset_names
from envgym_trainer.learner.learner import Learner
from envgym_trainer.learner.update_settings import UpdateSettings
from tests.fakes.tiny_lora import random_samples, tiny_model
from tests.trainer.learner.test_learner import adapter, largest_difference, on_policy

SAID = "hit"


def config(*settings):
    return TrainConfig.of(load_spec("guess", [f"train.{setting}" for setting in settings]).train)


def algorithm(*settings):
    return config(*settings).algorithm


WEIGHTS = {"solved": 1.0, "brief": 0.1, "watched": 0.0}


def episode(rewards, *, observations=None, parts=None, mistakes=(), truncated=False):
    """Build an episode whose turns have two sampled tokens each, after a prompt of two tokens.

    One observation token follows every turn but the last.
    """
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
        turn_invalid_calls=tuple(mistakes),
    )


VOID = Episode(
    "e", "t", "train", "", "", 0, (), None, None, failure=Failure("sandbox_lost", "call", "")
)


# --- settings ---


def test_without_an_algorithm_nothing_changes():
    plain = config()
    assert plain.algorithm == AlgorithmConfig()
    chosen = plain.algorithm
    assert (chosen.loss.clip_low, chosen.loss.clip_high, chosen.kl.coef) == (0.2, 0.28, 0.0)
    assert (chosen.loss.name, chosen.advantage.name, chosen.advantage.std) == (
        "grpo",
        "group",
        "group",
    )
    assert chosen.aggregation.kind == "token"


def test_what_is_written_goes_over_the_preset():
    mixed = algorithm(
        "algorithm=gspo", "algorithm.aggregation.kind=token", "algorithm.loss.clip_high=0.01"
    )
    assert (mixed.loss.name, mixed.aggregation.kind) == ("gspo", "token")
    assert (mixed.loss.clip_low, mixed.loss.clip_high) == (3e-4, 0.01)


def test_another_loss_than_the_presets_has_its_own_clips():
    mixed = algorithm("algorithm={preset: grpo, loss: {name: cispo}}")
    assert (mixed.loss.clip_low, mixed.loss.clip_high) == (1.0, 4.0)
    assert mixed.aggregation.kind == "sequence"


def test_a_preset_on_the_command_line_keeps_what_was_set_before_it():
    assert algorithm("algorithm.kl.coef=0.1", "algorithm=reinforce_pp").kl.coef == 0.1


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_written_out_is_the_same_settings_again(name):
    given = config(f"algorithm={name}")
    assert TrainConfig.of(given.model_dump(mode="json", by_alias=True)) == given


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("algorithm=gsop", "preset 'gsop' is unknown, did you mean 'gspo'"),
        ("algorithm.kl.estimator=k1", "expected gradient of 0. Use place: reward"),
        (
            "algorithm.advantage={name: rloo, std: group}",
            "advantage 'rloo' has no option std. It has: none. Leave std out",
        ),
        (
            "algorithm.advantage.invalid_call_penalty=0.1",
            "advantage 'group' has no option invalid_call_penalty. It has: std, ddof, eps",
        ),
        ("algorithm.advantage.name=turn", "advantage 'turn' is unknown, did you mean 'turns'"),
        ("algorithm.loss.name=gsop", "loss 'gsop' is unknown, did you mean 'gspo'"),
        (
            "algorithm.loss={name: reinforce, clip_low: 0.1}",
            "loss 'reinforce' has no option clip_low",
        ),
        ("algorithm.aggregation.length_tokens=5", "length_tokens belongs to kind 'constant'"),
        ("algorithm.importance_weights.min=0.5", "min belongs to mode 'mask', not 'none'"),
        (
            "algorithm={overlong_penalty: {max_tokens: 3, slope_tokens: 5}}",
            r"slope_tokens \(5\) must not exceed max_tokens \(3\)",
        ),
        ("algorithm={preset: dr_grpo, los: gspo}", "did you mean 'loss'"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused_with_the_remedy(setting, said):
    with pytest.raises(SpecError, match=said):
        config(setting)


def by(name, **options):
    return AlgorithmConfig(advantage=AdvantageConfig(name=name, **options))


# --- from episodes to the advantage of each token ---


def test_a_turns_reward_lands_on_its_tokens_and_on_earlier_ones_and_on_none_after_it():
    group = [episode([0.0, 4.0, 1.0]), episode([0.0])]
    first, second = build_samples([group], by("turns", discount=0.5, std="none"))
    # returns of the first: 0 + (4 + 1/2)/2 = 2.25, 4.5, 1; mean 2.5833; group mean with the
    # second's 0: 1.2917
    base = (2.25 + 4.5 + 1.0) / 3 / 2
    turns = [2.25 - base, 4.5 - base, 1.0 - base]
    #        prompt  turn 1               obs    turn 2              obs    turn 3
    expected = [0, 0, turns[0], turns[0], 0, turns[1], turns[1], 0, turns[2], turns[2]]
    assert first.token_advantages == pytest.approx(expected, abs=1e-6)
    assert second.token_advantages == pytest.approx([0, 0, -base, -base], abs=1e-6)


def test_a_mistake_costs_the_turn_that_made_it_and_those_before():
    clumsy = episode([0.0, 0.0, 0.0], mistakes=(0, 2, 0))
    clean = episode([0.0, 0.0, 0.0], mistakes=(0, 0, 0))
    rule = by("turns", discount=1.0, std="none", invalid_call_penalty=0.3)
    first, second = build_samples([[clumsy, clean]], rule)
    base = -0.6 * 2 / 3 / 2  # the turns of the first episode return -0.6, -0.6 and 0
    assert [first.token_advantages[t] for t in (2, 5, 8)] == pytest.approx(
        [-0.6 - base, -0.6 - base, -base]
    )
    assert [second.token_advantages[t] for t in (2, 5, 8)] == pytest.approx([-base] * 3)


def test_step_groups_add_what_a_turn_did_against_others_from_its_state():
    # All three start in one state. Then two turns start from state "a" and one from state "b".
    group = [
        episode([0.0, 1.0], observations=["a"]),
        episode([0.0, 0.0], observations=["a"]),
        episode([0.0, 0.0], observations=["b"]),
    ]
    rule = by("gigpo", discount=0.5, std="none", step_weight=2.0)
    samples = build_samples([group], rule)
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
    alone = build_samples([[episode([1.0]), episode([0.0])]], by("gigpo"))
    beside = build_samples(
        [[episode([1.0]), episode([0.0])], [episode([7.0]), episode([7.0])]],
        by("gigpo"),
    )
    assert [s.token_advantages for s in beside[:2]] == [s.token_advantages for s in alone]


def test_an_anchor_is_the_same_history_or_the_same_last_observation():
    left = episode([0.0] * 3, observations=["a", "x"])
    right = episode([0.0] * 3, observations=["b", "x"])
    equal = lambda by: [
        a == b for a, b in zip(state_keys(left, by), state_keys(right, by), strict=True)
    ]
    assert equal("history") == [True, False, False]
    assert equal("observation") == [True, False, True]
    assert len(set(state_keys(left, "history"))) == 3


def test_gdpo_hears_each_part_and_what_the_parts_do_not_explain():
    forbidden = episode([0.0], parts={"solved": 1.0, "brief": 0.0, "watched": 5.0})
    group = [
        episode([1.0], parts={"solved": 1.0, "brief": 0.0, "watched": 9.0}),
        episode([0.1], parts={"solved": 0.0, "brief": 1.0, "watched": 0.0}),
        forbidden,  # a forbidden action makes the reward 0
        VOID,
    ]
    solved, brief, bad = build_samples([group], by("gdpo"))
    assert solved.advantage > 0 > bad.advantage
    without = build_samples([group[:2]], by("gdpo"))
    assert [sample.advantage for sample in without] == pytest.approx([1.0, -1.0], abs=1e-3)


def test_overlong_episodes_are_punished_and_cut_ones_can_be_masked():
    group = [episode([1.0]), episode([0.0, 0.0, 1.0], truncated=True)]  # 2 and 6 sampled tokens
    options = {
        "advantage": {"std": "none"},
        "overlong_penalty": {"max_tokens": 6, "slope_tokens": 2},
        "mask_truncated": True,
    }
    short, long = build_samples([group], AlgorithmConfig.model_validate(options))
    assert (short.advantage, long.advantage) == (0.5, -0.5)
    assert (short.weight, long.weight) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("fields", "is_masked"),
    [
        ({"truncated": True, "stop_reason": "max_turns"}, True),
        ({"truncated": True, "stop_reason": "context"}, True),
        ({"turn_stops": ("stop", "stop", "length"), "stop_reason": "length"}, True),
        ({"turn_stops": ("stop", "stop", "length"), "stop_reason": "closed"}, True),
        ({"turn_stops": ("length", "length", "stop"), "stop_reason": "answered"}, False),
        ({"turn_stops": ("stop", "stop", "stop")}, False),
    ],
)
def test_an_episode_that_any_limit_cut_pulls_no_gradient_if_cut_ones_are_masked(fields, is_masked):
    group = [episode([1.0]), dataclasses.replace(episode([0.0, 0.0, 0.5]), **fields)]
    for masked, weight in ((True, 0.0 if is_masked else 1.0), (False, 1.0)):
        options = AlgorithmConfig.model_validate({"mask_truncated": masked})
        whole, cut = build_samples([group], options)
        assert (whole.weight, cut.weight) == (1.0, weight)
        assert whole.advantage == -cut.advantage > 0  # it counts for the group's mean


def test_credit_for_turns_needs_a_reward_for_each():
    old_record = dataclasses.replace(episode([0.0, 1.0]), turn_rewards=())
    with pytest.raises(
        UsageError, match=r"2 turns of sampled tokens but 0 turn rewards.*advantage.name=group"
    ):
        build_samples([[old_record, old_record]], by("turns"))


def test_a_step_whose_groups_differ_in_size_is_served():
    samples = build_samples(
        [[episode([1.0]), episode([0.0]), episode([0.0])], [episode([1.0]), episode([0.0])]],
        by("group", std="none"),
    )
    assert [sample.advantage for sample in samples] == pytest.approx(
        [2 / 3, -1 / 3, -1 / 3, 0.5, -0.5]
    )


# --- the step ---


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
