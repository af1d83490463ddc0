"""Training plans: which tasks, reward parts and groups a run trains on.

This folder is the registry: a file `NAME.py` with a function `open_plan(context)` is the plan
`train.plan.name: NAME`. The name `file.py:name` or `package.module:name` is any other function of
a `PlanContext`, or a class. See `ordinary.py` for the default.
"""

from __future__ import annotations

import importlib
import pkgutil
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from envgym.episode import Episode
from envgym.errors import SpecError, did_you_mean
from envgym.modules import load_object
from envgym.spec.environment import EnvSpec
from envgym.world import World
from envgym_trainer.config import TrainConfig
from envgym_trainer.rollout.rollout_batch import Group, RolloutBatch
from envgym_trainer.run.metrics import Metrics


@dataclass(frozen=True, slots=True)
class PlanContext:
    """Everything that a plan may use."""

    spec: EnvSpec
    config: TrainConfig
    """Training settings. `config.plan` has the plan's options."""
    world: World
    model: Any
    """The model that is trained, or `None` outside of a training run."""


class PlayTasks(Protocol):
    """Function that plays one group of each task. The episodes are not trained on."""

    def __call__(
        self, tasks: Sequence[str], *, adapter: AbstractContextManager[None] | None = None
    ) -> list[Group]:
        """Return the groups in the order of the tasks.

        Args:
            tasks: Task ids.
            adapter: Context in which the model has the adapter to play with. Default: the adapter
                that is trained.
        """
        ...


@runtime_checkable
class TrainingPlan(Protocol):
    """Choice of tasks, reward parts and groups. Its state is stored in checkpoints.

    The methods are listed in the order of their calls within a step.
    """

    warm_start_levels: Sequence[str]
    """Levels of the warm start's tasks. Empty: all levels."""

    def start_step(self, play: PlayTasks) -> None:
        """Prepare a step, before its tasks are drawn."""
        ...

    def choose_tasks(
        self,
        rng: random.Random,
        count: int,
        *,
        levels: Sequence[str] = (),
        weights: Mapping[str, float] | None = None,
    ) -> list[str]:
        """Return the ids of the next tasks of a step.

        Args:
            rng: Random number generator of the step.
            count: Number of tasks.
            levels: Levels that may be drawn. Empty allows all levels.
            weights: Weight of each template. `None` weighs all templates equally.
        """
        ...

    def groups_to_collect(self, wanted: int) -> int:
        """Return the number of groups to collect, of which `wanted` are trained on."""
        ...

    def collect_votes(self, groups: Sequence[Group], play: PlayTasks) -> list[Episode]:
        """Play the additional episodes that the rewards of these groups need, and return them."""
        ...

    def votes_for(self, part: str, task_id: str) -> list[str] | None:
        """Return the answers that vote in a reward part.

        `None` if the part gets no answers besides those of the group itself.
        """
        ...

    def mask_parts(self, group: Group) -> frozenset[str]:
        """Return the reward parts that do not count for this group."""
        ...

    def select_groups(self, batch: RolloutBatch, count: int) -> RolloutBatch:
        """Return the batch with at most `count` groups to train on."""
        ...

    def metrics(self, batch: RolloutBatch) -> Metrics:
        """Return the plan's metrics of a step, after the selection."""
        ...

    def validated(self, episodes: Sequence[Episode]) -> None:
        """Check the episodes of a validation.

        Raises:
            UsageError: If the run must not continue.
        """
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state. A state without the plan's keys belongs to another plan."""
        ...


OpenPlan = Callable[[PlanContext], TrainingPlan]


def find_plan(name: str, spec: EnvSpec) -> OpenPlan:
    """Return the function that opens the plan `train.plan.name`.

    Args:
        name: Name of a file in this folder, `file.py:name` (relative to the YAML) or
            `package.module:name`.
        spec: Environment specification.

    Raises:
        SpecError: If there is no such plan.
    """
    if ":" in name:
        return load_object(name, spec.root)
    names = plan_names()
    if name not in names:
        raise SpecError(
            f"{spec.path}: train.plan.name: no plan '{name}'{did_you_mean(name, names) or '.'} "
            f"Available: {', '.join(names)}, or file.py:name for your own"
        )
    return importlib.import_module(f"{__name__}.{name}").open_plan


def plan_names() -> list[str]:
    """Return the names of all plans in this folder."""
    return [module.name for module in pkgutil.iter_modules(__path__)]


def open_plan(context: PlanContext) -> TrainingPlan:
    """Return the plan of a run.

    Raises:
        SpecError: If there is no such plan, or it does not fit the environment.
    """
    spec = context.spec
    name = context.config.plan.name
    plan = find_plan(name, spec)(context)
    if not isinstance(plan, TrainingPlan):
        missing = [
            member
            for member in dir(TrainingPlan)
            if not member.startswith("_") and not hasattr(plan, member)
        ]
        raise SpecError(
            f"{spec.path}: train.plan.name: '{name}' has no {', '.join(missing)}. Derive it from "
            "envgym_trainer.rollout.plans.ordinary.OrdinaryPlan"
        )
    return plan
