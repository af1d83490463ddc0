"""Signals of reward hacking: reported once, in files and curves. A healthy run reports none."""

import dataclasses
import json

import pytest

from envgym.env import ToolWorld
from envgym.messages import Message
from envgym.rewards.scoring.hacking_signals import SignalLimits
from envgym.tasks import Task
from envgym_trainer.run.folder import RunFolder
from envgym_trainer.run.hacking_monitor import (
    NAMES,
    HackingMonitor,
    answered_alike,
    beyond_oracle,
    repeated,
)
from tests.fakes.shop_env import shop
from tests.fakes.shop_env import write as write_shop
from tests.trainer.algorithms.test_attribution import of_terms
from tests.trainer.learner.test_mismatch_run import SETTINGS, WORDY, lines
from tests.trainer.training.runs import run

VOTE = """
from collections import Counter

def agree(task, episodes):
    '''1 for the answer that most of the group gave.'''
    said = [episode.messages[-1].content for episode in episodes]
    return [float(text == Counter(said).most_common(1)[0][0]) for text in said]
agree.of_group = True
agree.grounded = False

def flat(evidence):
    return 1.0
"""
SUMS = """
from envgym import template

@template(level="L0")
def sums(draw):
    one, other = draw.rng.randrange(50), draw.rng.randrange(50)
    return draw.task(prompt=f"{one}+{other}?", final=f"{one + other}", \
facts=[f"{one + other}"], tools=())
"""
VOTED = ["reward.agree={from: parts.py:agree}", "reward.solved.weight=0.0", "episode.max_turns=1"]


def ends(text, *, calls=0, stop_reason="answered", task="train/reprice/1"):
    made = of_terms(1)
    said = (Message("user", "Do it."), Message("assistant", text))
    return dataclasses.replace(
        made, task_id=task, messages=said, stop_reason=stop_reason, tool_calls=calls
    )


def asks(n, *, final="Done.", facts=(), oracle=(), **extra):
    return Task(
        f"train/t/{n}", "?", n, "train", "t", final=final, facts=facts, oracle=oracle, extra=extra
    )


# --- measurements ---


def test_the_last_word_of_work_with_tools_is_no_answer():
    assert answered_alike([(asks(n), [ends("Done."), ends("Done.")]) for n in range(4)]) is None


def test_boxed_answers_count_everywhere_and_texts_where_facts_are_asked_for():
    boxed = [(asks(n), [ends(r"\boxed{7}"), ends(rf"\boxed{{{n}}}")]) for n in range(4)]
    assert answered_alike(boxed) == pytest.approx(0.5)
    told = [
        (
            asks(n, final=f"{n}.", facts=(str(n),)),
            [ends("0."), ends(f"{n}"), ends("", stop_reason="closed")],
        )
        for n in range(4)
    ]
    assert answered_alike(told) == pytest.approx((1 + 3 * 0.5) / 4)  # both answers of task 0 are 0


def test_tasks_that_share_their_answers_are_not_taken_for_a_collapse():
    truths = [r"\boxed{yes}", r"\boxed{yes}", r"\boxed{yes}", r"\boxed{no}"]
    unsure = [
        (asks(n, final=truth), [ends(r"\boxed{perhaps}"), ends(rf"\boxed{{{n}}}")])
        for n, truth in enumerate(truths)
    ]
    learned = [(asks(n, final=truth), [ends(truth)]) for n, truth in enumerate(truths)]
    assert answered_alike(unsure) == answered_alike(learned) == 0.75
    constant = [(task, [ends(r"\boxed{yes}")]) for task, _ in learned]
    assert answered_alike(constant) == 1.0


def test_spellings_of_one_answer_are_one_by_the_tasks_own_reading():
    knights = [
        r"\boxed{Ann is a knight, and Bob is a knave}",
        r"\boxed{Bob is a knave, Ann is a knight}",
    ]
    assert (
        answered_alike(
            [(asks(n, reading="claims"), [ends(text)]) for n, text in enumerate(knights)]
        )
        == 1.0
    )
    assert (
        answered_alike([(asks(n, reading="raw"), [ends(text)]) for n, text in enumerate(knights)])
        == 0.5
    )


def test_calls_beyond_the_oracles_are_extra_and_tasks_without_one_tell_nothing():
    call = ("set_price",)
    asked = [
        (asks(0, oracle=call), [ends("", calls=3), ends("", calls=1)]),
        (asks(1, oracle=call * 2), [ends("", calls=2)]),
    ]
    assert beyond_oracle(asked) == pytest.approx(2 / 6)
    assert beyond_oracle([(asks(0), [ends("", calls=9)])]) is None
    assert beyond_oracle([(asks(0, oracle=call), [ends("")])]) is None


def test_each_turn_repeats_for_itself():
    call = 'set_price(item="I1", price=120)'
    once = ends(call)
    twice = dataclasses.replace(
        once, messages=(*once.messages, Message("tool", "ok"), Message("assistant", call))
    )
    assert repeated([[once]]) == repeated([[twice]]) == 0.0
    # five 4-grams, all equal
    assert repeated([[ends("no no no no no no no no")]]) == pytest.approx(0.8)
    assert repeated([[ends("x")]]) is None


# --- reports ---


@pytest.fixture
def watch(tmp_path):
    """Return a function that builds the shop's signals from settings."""
    (tmp_path / "parts.py").write_text(VOTE)
    worlds = []
    folder = RunFolder.create(tmp_path / "runs", "r")

    def make(*settings, is_on=True):
        worlds.append(ToolWorld(shop(tmp_path, *settings)))
        return HackingMonitor(worlds[-1], folder, is_on=is_on, notify=told.append), folder, told

    told: list[str] = []
    yield make
    for world in worlds:
        world.close()


def step_of(part, value, text="Done."):
    made = dataclasses.replace(ends(text), reward_parts={part: value})
    return [[made, made], [dataclasses.replace(made, task_id="train/ask/1")] * 2]


@pytest.mark.parametrize(
    ("part", "severity"),
    [("agree", "alarm"), ("brief", "warn"), ("solved", None), ("unweighed", None)],
)
def test_a_jump_is_an_alarm_where_judges_alone_see_it_and_none_of_success(watch, part, severity):
    flat = "{from: parts.py:flat}"
    signals, folder, told = watch(
        "reward.agree={from: parts.py:agree}",
        f"reward.brief={flat}",
        "reward.unweighed={from: parts.py:flat, weight: 0.0}",
    )
    curves = [
        signals.observe(step, step_of(part, 0.1 if step < 25 else 0.9), {})["hacking/signal/jump"]
        for step in range(40)
    ]
    assert [line["severity"] for line in folder.signals()] == [each for each in [severity] if each]
    assert max(curves) == {"alarm": 1.0, "warn": 0.5, None: 0.0}[severity]
    assert len(told) == (severity is not None)
    if severity:
        assert "jumped from 0.1 to 0.9" in told[0]
        assert folder.signals()[0]["series"] == f"part/{part}"


def test_held_out_success_that_falls_is_told_beside_the_reward_of_the_same_adapter(watch):
    signals, folder, _ = watch()
    for step in range(14):
        signals.observe(step, step_of("solved", 1.0), {"reward": 0.1 * step})
        signals.validated({"val/success": 0.9 if step < 6 else 0.2, "val/n": 200.0})
    assert [(line["name"], line["severity"]) for line in folder.signals()] == [("gap", "alarm")]


def test_a_validation_between_two_steps_outlives_a_checkpoint(watch):
    signals, _, _ = watch()
    signals.observe(1, step_of("solved", 1.0), {"reward": 0.5})
    signals.validated({"val/success": 0.5, "val/n": 4.0})
    state = json.loads(json.dumps(signals.state_dict()))
    again, _, _ = watch()
    again.load_state_dict(state)
    for each in (signals, again):
        each.observe(2, step_of("solved", 1.0), {"reward": 0.5})
    assert again.state_dict() == signals.state_dict()
    assert again.state_dict()["watch"]["truths"] == [[2, 0.5, 0.5, 4]]


def test_a_number_that_is_not_finite_is_not_measured(watch):
    signals, _, _ = watch()
    signals.observe(1, step_of("solved", 1.0), {"reward": float("nan"), "entropy": float("inf")})
    assert set(signals.state_dict()["watch"]["last"]) == set()


def test_off_is_silent(watch):
    signals, folder, told = watch(is_on=False)
    assert signals.observe(1, step_of("solved", 1.0), {"reward": 1.0}) == {}
    assert (folder.signals(), told) == ([], [])


# --- whole runs ---


@pytest.fixture
def voted(tmp_path):
    (tmp_path / "parts.py").write_text(VOTE)
    (tmp_path / "rewards.py").write_text(WORDY)
    return str(write_shop(tmp_path, tasks=SUMS))


def signs(folder):
    return [
        {
            name: value
            for name, value in line.items()
            if name.startswith(("hacking/signal/", "hacking/"))
        }
        for line in lines(folder)
    ]


def test_a_vote_that_is_won_by_one_answer_for_everything_is_told_and_a_resumed_run_tells_the_same(
    voted, tmp_path
):
    settings = [
        *SETTINGS,
        *VOTED,
        "reward.wordy.weight=0.0",
        "train.rollout.deterministic=true",
        "train.rollout.max_turn_tokens=2",
        "train.rollout.group_size=8",
        "train.rollout.groups_per_step=3",
        "train.optimizer.learning_rate=7e-4",
    ]
    _, whole = run(tmp_path / "whole", *settings, "train.steps=24", env=voted)
    found = {line["name"]: line for line in whole.signals()}
    assert found["modal_answer"]["severity"] == "alarm"
    assert found["modal_answer"]["step"] >= SignalLimits().first_steps
    told = [line for line in lines(whole) if line["hacking/signal/modal_answer"] == 1.0]
    assert [line["step"] for line in told] == [found["modal_answer"]["step"]]
    _, part = run(tmp_path / "part", *settings, "train.steps=8", env=voted)
    # a signal of the step in which the run was killed
    part.append_signals([dataclasses.replace(_signal(whole), step=99)])
    _, part = run(part.path, *settings, "train.steps=24", env=voted, resume=True)
    assert part.signals() == whole.signals()
    assert signs(part) == signs(whole)


def _signal(folder):
    from envgym.rewards.scoring.hacking_signals import Signal

    return Signal(**folder.signals()[0])


def test_a_healthy_run_with_tools_tells_nothing(tmp_path):
    (tmp_path / "rewards.py").write_text(WORDY)
    env = str(write_shop(tmp_path))
    _, folder = run(
        tmp_path / "r",
        *SETTINGS,
        "train.steps=40",
        "train.optimizer.learning_rate=1e-4",
        # Without this the sampled answers depend on the load of the machine.
        "train.rollout.deterministic=true",
        env=env,
    )
    assert folder.signals() == []
    assert not folder.signals_file.exists()
    for line in lines(folder):
        assert {line[f"hacking/signal/{name}"] for name in NAMES} == {0.0}
        assert "hacking/modal_share" not in line


def test_signals_can_be_switched_off(tmp_path):
    (tmp_path / "rewards.py").write_text(WORDY)
    _, folder = run(
        tmp_path / "r",
        *SETTINGS,
        "train.steps=1",
        "train.checks.hacking_signals=false",
        env=str(write_shop(tmp_path)),
    )
    assert signs(folder) == [{}]
