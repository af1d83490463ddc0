"""The ordinary plan: fresh tasks in every step, all reward parts, all groups.

It has no state. Derive a plan of your own from it, and override the methods that differ.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from envgym.episode import Episode
from envgym.errors import SpecError
from envgym.world import TaskSet
from envgym_trainer.rollout.plans import PlanContext, PlayTasks
from envgym_trainer.rollout.rollout_batch import Group, RolloutBatch
from envgym_trainer.run.metrics import Metrics


def open_plan(context: PlanContext) -> OrdinaryPlan:
    """Return the plan.

    Raises:
        SpecError: If `train.plan` has options, because this plan has none.
    """
    if unknown := context.config.plan.model_extra:
        raise SpecError(
            f"{context.spec.path}: train.plan: the ordinary plan has no option "
            f"'{next(iter(unknown))}'. Remove it, or name the plan that has it"
        )
    return OrdinaryPlan(context)


class OrdinaryPlan:
    """Training plan without any restriction."""

    def __init__(self, context: PlanContext):
        self.context = context
        self.warm_start_levels: Sequence[str] = context.config.tasks.levels

    def start_step(self, play: PlayTasks) -> None:
        """Do nothing."""

    def choose_tasks(
        self,
        rng: random.Random,
        count: int,
        *,
        levels: Sequence[str] = (),
        weights: Mapping[str, float] | None = None,
    ) -> list[str]:
        return draw_tasks(self.context.world.tasks, rng, count, levels=levels, weights=weights)

    def groups_to_collect(self, wanted: int) -> int:
        return wanted

    def collect_votes(self, groups: Sequence[Group], play: PlayTasks) -> list[Episode]:
        return []

    def votes_for(self, part: str, task_id: str) -> list[str] | None:
        return None

    def mask_parts(self, group: Group) -> frozenset[str]:
        return frozenset()

    def select_groups(self, batch: RolloutBatch, count: int) -> RolloutBatch:
        return batch

    def metrics(self, batch: RolloutBatch) -> Metrics:
        return {}

    def validated(self, episodes: Sequence[Episode]) -> None:
        """Accept any validation."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Ignore the state of another plan."""


def draw_tasks(
    tasks: TaskSet,
    rng: random.Random,
    count: int,
    *,
    levels: Sequence[str] = (),
    weights: Mapping[str, float] | None = None,
) -> list[str]:
    """Draw task ids of the train split with replacement. See `TrainingPlan.choose_tasks`."""
    return [tasks.draw_id("train", rng, levels=levels, weights=weights) for _ in range(count)]
