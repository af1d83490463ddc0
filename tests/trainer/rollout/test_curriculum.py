"""Curriculum decisions from pass rates and scores. The expected values are worked out by hand."""

import pytest
from pydantic import ValidationError

from envgym_trainer.config.curriculum import HorizonConfig, TasksConfig
from envgym_trainer.rollout.curriculum import Horizon, LevelSchedule, PassRates, learnability


def test_a_task_solved_half_of_the_time_teaches_most_and_one_that_is_certain_keeps_the_floor():
    assert [learnability(rate, floor=0.1) for rate in (0.0, 0.25, 0.5, 0.75, 1.0)] == pytest.approx(
        [0.1, 0.75, 1.0, 0.75, 0.1]
    )
    assert learnability(0.02, floor=0.1) == 0.1  # 4 * 0.02 * 0.98 = 0.0784


def test_a_pass_rate_moves_by_its_share_towards_each_group():
    rates = PassRates(decay=0.8)
    rates.observe("a", "L0", 1.0)  # 0.8 * 0.5 + 0.2 * 1
    assert rates.of("a", "L0") == pytest.approx(0.6)
    rates.observe("a", "L0", 0.0)
    assert rates.of("a", "L0") == pytest.approx(0.48)


def test_a_template_that_was_never_seen_has_the_rate_of_its_level_and_a_level_one_half():
    rates = PassRates(decay=0.5)
    assert rates.of("a", "L0") == 0.5
    rates.observe("a", "L0", 1.0)
    assert (rates.of("b", "L0"), rates.of("c", "L1")) == (0.75, 0.5)
    rates.observe("b", "L0", 0.0)  # starts at 0.75, not at 0.5
    assert rates.of("b", "L0") == pytest.approx(0.375)
    assert rates.levels == pytest.approx({"L0": 0.375})


def test_levels_open_in_order_when_the_last_open_one_has_its_score():
    ladder = LevelSchedule(["L0", "L1", "L2"], unlock_at=0.7)
    assert ladder.open == ("L0",)
    assert ladder.observe({"L0": 0.69, "L1": 1.0}) == []
    assert ladder.observe({"L0": 0.7, "L1": 0.2}) == ["L1"]
    assert ladder.observe({"L0": 1.0, "L1": 0.6}) == []  # only the last open level counts
    assert ladder.observe({"L0": 0.1, "L1": 0.9}) == ["L2"]
    assert ladder.observe({"L0": 0.0, "L1": 0.0, "L2": 0.0}) == []
    assert ladder.open == ("L0", "L1", "L2")  # no level closes again


def test_a_level_passed_before_it_opened_opens_the_next_at_once():
    assert LevelSchedule(["L0", "L1", "L2", "L3"], unlock_at=0.5).observe(
        {"L0": 0.6, "L1": 0.6, "L2": 0.4}
    ) == ["L1", "L2"]


def test_a_level_without_a_score_opens_nothing():
    assert LevelSchedule(["L0", "L1"], unlock_at=0.1).observe({"L1": 1.0}) == []


def test_without_a_threshold_all_levels_are_open():
    assert LevelSchedule(["L0", "L1"], unlock_at=None).open == ("L0", "L1")


def test_a_horizon_grows_evenly_over_its_steps_and_stays():
    horizon = Horizon(HorizonConfig(start_turns=2, end_turns=6, over_steps=8))
    assert [horizon.turns(done) for done in range(1, 12)] == [2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 6]
    assert not horizon.observe(1.0)  # scores do not move it


def test_a_horizon_by_score_grows_by_one_turn_for_each_validation_that_reaches_it():
    horizon = Horizon(HorizonConfig(start_turns=2, end_turns=4, grow_at=0.5))
    assert [(horizon.observe(score), horizon.turns(99)) for score in (0.4, 0.5, 0.4, 0.9, 0.9)] == [
        (False, 2),
        (True, 3),
        (False, 3),
        (True, 4),
        (False, 4),
    ]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (
            {"start_turns": 4, "end_turns": 3, "over_steps": 2},
            "end_turns is 3, below start_turns, which is 4",
        ),
        ({"start_turns": 1, "end_turns": 3}, "set either over_steps"),
        (
            {"start_turns": 1, "end_turns": 3, "over_steps": 2, "grow_at": 0.5},
            "set either over_steps",
        ),
    ],
)
def test_a_horizon_that_does_not_say_how_it_grows_is_refused(settings, told):
    with pytest.raises(ValidationError, match=told):
        TasksConfig.model_validate({"horizon": settings})
