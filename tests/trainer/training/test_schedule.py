"""Steps of a run that are validated, saved and prefetched, worked out by hand."""

import pytest

from envgym_trainer.config import TrainConfig
from envgym_trainer.training.schedule import Schedule

STEPS = {"steps": 5, "warm_start": {"episodes": 3, "episodes_per_step": 2}}
"""Two supervised steps, then GRPO steps 3 to 7."""


def schedule(**blocks):
    return Schedule(TrainConfig.model_validate(STEPS | blocks))


@pytest.mark.parametrize(("adapter", "expected"), [("last", [4, 6]), ("best", [0, 2, 4, 6, 7])])
def test_base_warm_start_and_last_step_are_validated_only_if_the_best_adapter_is_exported(
    adapter, expected
):
    steps = schedule(output={"adapter": adapter}, evaluation={"validate_every_steps": 2})
    assert [step for step in range(8) if steps.is_validation_step(step)] == expected


def test_a_checkpoint_follows_each_interval_and_the_last_step():
    steps = schedule(output={"checkpoint_every_steps": 2})
    assert [step for step in range(3, 8) if steps.is_checkpoint_step(step)] == [4, 6, 7]


def test_the_step_after_a_checkpoint_or_a_validation_is_not_prefetched():
    steps = schedule(
        rollout={"one_step_ahead": True},
        output={"checkpoint_every_steps": 3},
        evaluation={"validate_every_steps": 4},
    )
    assert [step for step in range(3, 8) if steps.should_prefetch(step)] == [3, 4]
