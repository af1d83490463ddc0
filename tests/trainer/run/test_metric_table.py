"""The table of metrics lists exactly the metrics that real runs log."""

import re

import pytest

from envgym.rewards.scoring.llm_judge import Judges
from envgym.rewards.scoring.majority_vote import VotedGroup, text_vote, vote_metrics
from envgym_trainer.run.metric_table import METRICS, SECTIONS, find_metric, to_markdown
from tests.fakes.shop_env import write as write_shop
from tests.trainer.training.runs import run

PARTS = """\
import zlib

def wordy(evidence):
    return zlib.crc32(evidence.final_message.encode()) % 7 / 7

def lucky(evidence):
    return zlib.crc32(evidence.final_message.encode()) % 5 / 5
"""
SETTINGS = [
    "sandbox.backend=local",
    "reward.wordy={from: rewards.py:wordy, scale: running}",
    "reward.lucky={from: rewards.py:lucky}",
    "train.checks.preflight=off",
    "train.tasks={adaptive: true, horizon: {start_turns: 1, end_turns: 4, over_steps: 2}}",
    "train.rollout.max_extra_groups=1",
    "train.optimizer={updates_per_step: 2, max_kl: 9.0, learning_rate: 1.0e-3}",
    "train.algorithm.kl.coef=0.01",
    "train.algorithm.importance_weights={mode: truncate, max: 2.0}",
    "train.controllers={kl: {target: 0.1}, learning_rate: {target: 0.1}, entropy: {target: 1.0}}",
    "train.reward_weights={mode: spread}",
]
ELSEWHERE = {
    "rewards/NAME/failed": "a group part that raises",
    "judge/{requests,judgements,cached}": "an LLM judge",
    "judge/{budget,timeout,unreachable,server,too_long,bad_answer}": "an LLM judge",
    "failures/stage/STAGE": "a failure of the world",
    "failures/KIND": "a failure of the world",
    "curriculum/unlocked": "levels to unlock",
    "episode/rewritten_turns": "a chat template that drops earlier reasoning",
    "plan/{true_labels,disagreed}": "self-training",
    "plan/{parsed,majority_ratio,labelled,majority_voting_reward}": "self-training",
    "plan/{ground_truth_ratio,pass@n,labelled_right,label_accuracy,reward_accuracy}": "votes",
    "plan/pass_rate/BAND": "votes",
    "sandbox/session_mb/{p50,p99}": "a session that grows",
    "sandbox/recycled/REASON": "a box that is replaced",
    "sandbox/memory/looks": "a pool that measures memory",
    "sandbox/failures/KIND": "a failure of the sandbox",
}
"""Entries that the run below does not show, with what it would need."""


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop")
    (folder / "rewards.py").write_text(PARTS)
    _, finished = run(folder / "runs" / "r", *SETTINGS, env=str(write_shop(folder)))
    names = {"step", "phase", "seconds"}
    return [
        (line["phase"], {name for name in line if name not in names}) for line in finished.metrics()
    ]


def test_each_logged_metric_is_in_the_table(lines):
    logged = {name for _, names in lines for name in names}
    assert {name for name in logged if find_metric(name) is None} == set()


def test_each_entry_of_the_table_is_logged(lines):
    logged = {find_metric(name) for _, names in lines for name in names}
    unseen = {metric.name for metric in METRICS if metric not in logged}
    assert unseen - ELSEWHERE.keys() == set()


def test_an_entry_without_a_condition_is_in_the_line_of_every_training_step(lines):
    always = {metric for metric in METRICS if not metric.absent}
    assert always
    for phase, names in lines:
        if phase != "eval":
            found = {find_metric(name) for name in names}
            assert {metric.name for metric in always - found} == set()


def test_metrics_of_judges_and_votes_are_in_the_table():
    texts = [r"\boxed{1}", r"\boxed{1}", r"\boxed{2}"]
    votes = vote_metrics([VotedGroup(texts, text_vote(texts), (1.0, 1.0, 0.0), truth="1")])
    for name in [*Judges().statistics(), *(f"plan/{name}" for name in votes)]:
        assert find_metric(name), name


def test_unknown_names_and_names_of_before_are_not_in_the_table():
    for name in ("success/L0", "sampling/idle", "approx_kl", "signals/jump", "loss/x", "rewards"):
        assert find_metric(name) is None


def test_no_two_entries_have_one_name_and_prefixes_of_evaluations_are_ignored():
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    assert find_metric("eval/success") == find_metric("val/success") == find_metric("success")


def test_the_reference_page_has_a_row_for_each_entry():
    page = to_markdown()
    assert re.findall(r"^## (.*)$", page, re.MULTILINE) == list(SECTIONS)
    assert all(f"| `{metric.name}` |" in page for metric in METRICS)
