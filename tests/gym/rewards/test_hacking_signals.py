"""Signals of reward hacking: each fires on its own series and stays silent on similar ones."""

import dataclasses
import json
import random

import pytest

from envgym.errors import UsageError
from envgym.rewards.scoring.answer_statistics import modal_share, repetition
from envgym.rewards.scoring.hacking_signals import HackingDetector, SignalLimits, StepRecord


def told(records, watch=None):
    """Return (step, name, severity) of every signal."""
    watch = watch or HackingDetector()
    return [
        (signal.step, signal.name, signal.severity)
        for record in records
        for signal in watch.observe(record)
    ]


def series(name, values):
    return [record(step, name, value) for step, value in enumerate(values)]


def record(step, name, value):
    return dataclasses.replace(StepRecord(step), **{name: value})


def part(values):
    return [StepRecord(step, parts={"vote": value}) for step, value in enumerate(values)]


def held_out(truths, rewards, tasks=0):
    return [
        StepRecord(step, reward=reward, truth=truth, truth_tasks=tasks)
        for step, (truth, reward) in enumerate(zip(truths, rewards, strict=True))
    ]


# --- one answer for all tasks ---


def test_an_answer_that_takes_over_is_told_once_when_most_of_the_latest_steps_show_it():
    # From 0.2 the limit is 0.2 + 0.2 * 0.8 = 0.36. The third of five steps above it moves the
    # median.
    assert told(series("modal_share", [0.2] * 20 + [0.5] * 30)) == [(22, "modal_answer", "alarm")]


def test_tasks_that_share_their_answer_from_the_start_raise_no_alarm():
    assert told(series("modal_share", [0.5, 0.6] * 30)) == []  # binary answers
    assert (
        told(series("modal_share", [0.2] * 20 + [0.9, 0.9] + [0.2] * 20)) == []
    )  # two outlier batches


def test_a_signal_comes_again_only_after_a_pause():
    quiet = SignalLimits().quiet_steps
    shares = [0.2] * 20 + [0.5] * 10 + [0.2] * (quiet + 5) + [0.5] * 10
    assert [name for _, name, _ in told(series("modal_share", shares))] == ["modal_answer"] * 2
    flicker = [0.2] * 20 + ([0.5] * 5 + [0.2] * 5) * 4
    assert len(told(series("modal_share", flicker))) == 1


def test_the_modal_share_is_across_tasks_each_counting_the_same():
    assert modal_share([["1", "1"], ["1", "1"], ["1.0"]]) == 1.0
    assert modal_share([["1", "1", "1", "1"], ["2", "3"]]) == pytest.approx(0.5)
    assert modal_share([["1", "2"], ["1", "3"], ["4", None]]) == pytest.approx((0.5 + 0.5) / 3)


def test_one_task_alone_has_nothing_in_common_with_others():
    assert modal_share([["1", "1"]]) is None
    assert modal_share([["1"], [None, " "]]) is None
    assert modal_share([]) is None


# --- entropy, both directions ---


def test_entropy_that_doubles_is_an_alarm_and_entropy_that_is_gone_a_warning():
    assert told(series("entropy", [1.0] * 20 + [2.5] * 10)) == [(22, "entropy_explosion", "alarm")]
    assert told(series("entropy", [1.0] * 20 + [0.01] * 10)) == [(22, "entropy_collapse", "warn")]
    assert (
        told(series("entropy", [0.01] * 20 + [0.1] * 10)) == []
    )  # a tenfold increase of a value near 0


def test_learning_makes_the_policy_surer_and_that_is_no_signal():
    assert told(series("entropy", [0.99**step for step in range(250)])) == []  # drop to 8 %


# --- texts and calls ---


def test_repetition_is_the_share_of_grams_that_stood_there_before():
    assert repetition("one two three four five six") == 0.0
    assert repetition("a b c d " * 3) == pytest.approx(5 / 9)  # nine n-grams, four distinct
    assert repetition("a" * 200) == pytest.approx(
        1 - 1 / 22
    )  # 25 pieces of 8 letters: 22 n-grams, all equal
    assert repetition("!" * 23) == pytest.approx(1 - 1 / 20)


@pytest.mark.parametrize("text", ["", "   ", "one two three four"])
def test_a_text_too_short_to_repeat_anything_has_no_rate(text):
    assert repetition(text) is None


def test_texts_that_begin_to_repeat_themselves_are_an_alarm_and_talkative_ones_are_not():
    assert told(series("repetition", [0.1] * 20 + [0.4] * 10)) == [(22, "repetition", "alarm")]
    assert told(series("repetition", [0.4] * 40)) == []


def test_calls_that_no_task_needs_are_a_warning():
    assert told(series("extra_calls", [0.1] * 20 + [0.5] * 10)) == [(22, "extra_calls", "warn")]


# --- jumps ---


def test_a_part_that_jumps_to_1_is_an_alarm_at_the_second_of_three_steps():
    rng = random.Random(0)
    noisy = [0.4 + rng.uniform(-0.03, 0.03) for _ in range(40)]
    assert told(part([*noisy, *[0.95] * 10])) == [(41, "jump", "alarm")]
    assert told(part([*noisy, *[0.05] * 10])) == [(41, "jump", "warn")]


def test_neither_a_climb_nor_noise_nor_one_odd_step_is_a_jump():
    rng = random.Random(1)
    assert told(part([0.2 + 0.006 * step for step in range(120)])) == []
    assert told(part([rng.random() for _ in range(300)])) == []
    assert told(part([0.4] * 40 + [1.0] + [0.4] * 40)) == []
    assert (
        told(part([0.4] * 40 + [0.5] * 40)) == []
    )  # a constant part has no deviation, but a change of 0.1 is small


def test_a_jump_names_its_part():
    watch = HackingDetector()
    signals = [
        signal for record in part([0.4] * 30 + [1.0] * 3) for signal in watch.observe(record)
    ]
    assert signals[0].message == "vote jumped from 0.4 to 1 (limit 0.15)"
    assert (signals[0].value, signals[0].limit) == (pytest.approx(0.6), 0.15)


# --- gap between reward and ground truth ---


def test_truth_that_falls_while_the_reward_rises_is_the_gap():
    falling = [0.5] * 12 + [0.4] * 12
    # The gap averages six measurements: four at 0.4 make 0.5 - 0.067, the first value beyond 0.05.
    assert told(held_out(falling, [0.6 + 0.01 * step for step in range(24)])) == [
        (15, "gap", "alarm")
    ]


def test_truth_that_falls_together_with_the_reward_is_another_trouble():
    assert told(held_out([0.5] * 12 + [0.3] * 12, [0.6 - 0.01 * step for step in range(24)])) == []


def test_a_high_reward_alone_is_no_alarm():
    assert told(held_out([0.6] * 60, [0.9] * 60)) == []


def test_a_fall_that_so_few_held_out_tasks_may_show_by_chance_is_none():
    falling = [0.5] * 12 + [0.4] * 12
    rewards = [0.9] * 24
    assert (
        told(held_out(falling, rewards, tasks=20)) == []
    )  # 3.5 standard errors with 120 and 120 tasks are 0.23
    assert [name for _, name, _ in told(held_out(falling, rewards, tasks=500))] == [
        "gap"
    ]  # standard errors: 0.045


def test_without_held_out_labels_or_a_reward_there_is_no_gap():
    assert told(series("truth", [0.5] * 12 + [0.1] * 12)) == []
    assert told(series("reward", [0.5] * 12 + [1.0] * 12)) == []


# --- input and stored state ---


@pytest.mark.parametrize(
    "name", ["reward", "truth", "modal_share", "entropy", "repetition", "extra_calls"]
)
def test_a_nan_is_refused_by_name(name):
    with pytest.raises(UsageError, match=rf"step 3: {name} is nan. Pass None"):
        record(3, name, float("nan"))


def test_a_part_that_is_nan_is_refused_and_one_that_did_not_apply_is_skipped():
    with pytest.raises(UsageError, match="part/vote is inf"):
        StepRecord(3, parts={"vote": float("inf")})
    assert told([StepRecord(step, parts={"vote": None}) for step in range(40)]) == []


def test_a_run_that_measures_nothing_gets_no_signal():
    assert told([StepRecord(step) for step in range(100)]) == []


def test_steps_must_rise():
    watch = HackingDetector()
    watch.observe(StepRecord(5))
    with pytest.raises(UsageError, match=r"step 5 follows step 5\. Load the state"):
        watch.observe(StepRecord(5))


@pytest.mark.parametrize("stop", [5, 21, 23, 40])
def test_a_resumed_run_gives_the_signals_of_an_unbroken_one(stop):
    rng = random.Random(2)
    records = [
        StepRecord(
            step,
            reward=0.5 + 0.005 * step,
            truth=0.5 - 0.006 * step if step % 2 else None,
            modal_share=min(1, 0.2 + 0.01 * step),
            entropy=1.0 + rng.random() + (step > 50) * 2,
            parts={"vote": 0.4 + 0.5 * (step > 30)},
        )
        for step in range(80)
    ]
    whole = told(records)
    assert {name for _, name, _ in whole} == {"gap", "modal_answer", "jump", "entropy_explosion"}
    first = HackingDetector()
    second = HackingDetector()
    before = told(records[:stop], first)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert before + told(records[stop:], second) == whole


def test_a_kept_state_does_not_change_with_the_run_that_goes_on():
    watch = HackingDetector()
    told(series("modal_share", [0.2] * 5), watch)
    kept = watch.state_dict()
    as_it_was = json.dumps(kept)
    told([StepRecord(9, modal_share=0.9)], watch)
    assert json.dumps(kept) == as_it_was


def test_a_state_of_another_form_is_refused():
    with pytest.raises(UsageError, match="the state does not fit HackingDetector: best, first"):
        HackingDetector().load_state_dict({"step": 3, "last": {}})
