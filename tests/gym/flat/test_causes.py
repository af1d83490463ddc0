"""The decision table of failures: every row decides at least one failure, and the docs show it."""

import itertools
from typing import get_args

import pytest

from envgym.causes import RULES, Replay, decide, find_rule, to_markdown
from envgym.errors import BoxState, Neighbours, Stage, WorldFailure
from tests.fakes import ROOT

KINDS = (
    "sandbox_lost",
    "session_gone",
    "session_ended",
    "out_of_memory",
    "state_lost",
    "timeout",
    "tool_crashed",
    "server_lost",
    "server_down",
    "seed_crashed",
    "sandbox_full",
    "state_differs",
    "reward_raised",
    "env_raised",
    "overloaded",
)
REPLAYS = (None, *get_args(Replay))
CIRCUMSTANCES = list(
    itertools.product(
        KINDS, get_args(Stage), get_args(BoxState), get_args(Neighbours), (True, False), REPLAYS
    )
)


def failure(kind, stage="call", box="alive", neighbours="none") -> WorldFailure:
    return WorldFailure(kind, "", stage=stage, box=box, neighbours=neighbours)


def rule_of(case):
    kind, stage, box, neighbours, executes_code, replay = case
    return find_rule(
        failure(kind, stage, box, neighbours), executes_code=executes_code, replay=replay
    )


def test_the_table_decides_every_circumstance_and_each_row_decides_one():
    assert {rule_of(case) for case in CIRCUMSTANCES} == set(RULES)


def test_after_a_replay_nothing_remains_in_doubt():
    decided = {rule_of(case).verdict for case in CIRCUMSTANCES if case[5] is not None}
    assert decided == {"model", "world"}


def test_a_session_that_never_opened_is_the_worlds_failure_whatever_else_holds():
    assert {rule_of(case).verdict for case in CIRCUMSTANCES if case[1] == "open"} == {"world"}


def test_code_of_the_model_in_a_box_that_works_is_never_void():
    """Kinds that a session reports while its box works."""
    kinds = ("session_gone", "session_ended", "out_of_memory", "state_lost", "timeout")
    ends = {
        rule_of(case).verdict
        for case in CIRCUMSTANCES
        if case[0] in kinds and case[1] in ("call", "diff", "score") and case[2] == "alive"
        if case[4]
    }
    assert ends == {"model"}


@pytest.mark.parametrize(
    ("kind", "box", "replay", "executes_code", "verdict"),
    [
        ("session_ended", "alive", None, False, "replay"),
        ("session_ended", "alive", "failed_again", False, "model"),
        ("session_ended", "alive", "succeeded", False, "world"),
        ("session_ended", "alive", "impossible", False, "world"),
        ("sandbox_lost", "lost", None, True, "replay"),
        ("sandbox_lost", "lost", "failed_again", False, "model"),
        ("sandbox_lost", "lost", "succeeded", True, "model"),
        ("sandbox_lost", "lost", "impossible", True, "world"),
        ("sandbox_lost", "gone", None, True, "world"),
        ("session_gone", "alive", None, False, "world"),
        ("session_gone", "alive", None, True, "model"),
        ("server_down", "alive", None, True, "world"),
        ("reward_raised", "alive", None, True, "world"),
    ],
)
def test_a_failure_during_a_call(kind, box, replay, executes_code, verdict):
    found = decide(failure(kind, box=box), executes_code=executes_code, replay=replay)
    assert found == verdict


def test_a_timeout_is_the_models_if_neighbours_got_answers_and_is_replayed_otherwise():
    ends = {
        neighbours: decide(failure("timeout", neighbours=neighbours), executes_code=False)
        for neighbours in get_args(Neighbours)
    }
    assert ends == {"moved": "model", "still": "replay", "none": "replay"}


@pytest.mark.parametrize("stage", ["diff", "score"])
def test_a_box_that_is_lost_while_the_state_is_read_is_the_worlds(stage):
    assert decide(failure("sandbox_lost", stage, box="lost"), executes_code=True) == "world"
    assert decide(failure("sandbox_lost", stage), executes_code=False) == "replay"


def test_the_docs_show_the_table_of_the_code():
    page = (ROOT / "docs/explanation/failures.md").read_text(encoding="utf-8")
    shown = page.partition("<!-- causes: generated from envgym/causes.py -->\n")[2]
    assert shown.partition("<!-- end -->")[0] == to_markdown()
