"""The `train.plan` block: the training plan and its options. Importable without torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import ConfigDict, Discriminator, Tag

from envgym.block import Block
from envgym_trainer.config.self_training import SelfTrainingConfig


class PlanConfig(Block):
    """Plan whose options are checked when it is opened, before the first episode."""

    model_config = ConfigDict(extra="allow")

    name: str = "ordinary"
    """Name of the plan: ordinary (fresh tasks, all rewards), or `file.py:name` for your own. Other
    keys are options of your own plan."""

    def check(self, **settings: Any) -> None:
        """Accept all other settings of the run."""


def _branch(block: Any) -> str:
    name = block.get("name") if isinstance(block, Mapping) else getattr(block, "name", None)
    return "<self_training>" if name == "self_training" else "<plan>"


AnyPlanConfig = Annotated[
    Annotated[SelfTrainingConfig, Tag("<self_training>")] | Annotated[PlanConfig, Tag("<plan>")],
    Discriminator(_branch),
]
