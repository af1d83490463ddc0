"""`train.algorithm`: the presets, the advantage of each token, and the resulting gradient."""

import dataclasses

import pytest

from envgym.episode import Episode, Failure
from envgym.errors import SpecError, UsageError
from envgym.messages import Message
from envgym.policies import TokenTrace
from envgym.spec.environment import load_spec
from envgym.terms import Term
from envgym_trainer.algorithms.conversation_states import state_keys
from envgym_trainer.algorithms.credit import build_samples
from envgym_trainer.config import TrainConfig
from envgym_trainer.config.algorithm import AdvantageConfig, AlgorithmConfig
from envgym_trainer.config.presets import preset_names

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
