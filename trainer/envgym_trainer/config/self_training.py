"""The `train.self_training:` block. Importable without torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from envgym.block import Block
from envgym.errors import UsageError


class SelfTrainingConfig(Block):
    """Tasks without a true label are rewarded by their group's own vote, the part of the reward that is made `from: majority_vote`.
    A vote knows nothing of the truth and is won by the same answer everywhere, so the tasks are a bounded pool, and validation
    (`eval.every`) and `signals` must be on."""

    pool: int = Field(default=256, ge=2)
    """Training tasks of the whole run, drawn once."""
    easiest: float = Field(default=1.0, gt=0, le=1)
    """Share of the pool that is used: of each level the tasks on which the policy agrees most before the first step. Below 1 a
    group of every task is played for that."""
    true_labels: float = Field(default=0.05, ge=0, le=1)
    """Share of those tasks that keep their true label: there the vote is not asked."""
    label_budget: int | None = Field(default=None, ge=0)
    """At most so many true labels."""
    labelled_levels: tuple[str, ...] = ()
    """Levels whose tasks all keep their true label, outside of the budget. The warm start then shows these alone."""
    labelled_groups: float | None = Field(default=None, gt=0, lt=1)
    """Share of each step's groups that are of tasks with a true label, drawn again and again; by default they come as others do."""
    label_free: tuple[str, ...] = ()
    """Parts of the reward that need no true label, such as one for the form: they count on every task. All others but the vote
    count only on tasks that keep their label."""
    keep: float = Field(default=1.0, gt=0, le=1)
    """Share of the groups played that is learned from: those with a true label first, then those that agree most. So a step plays
    `tasks_per_step / keep` groups."""
    teacher: Literal["policy", "frozen", "average"] = "policy"
    """Who votes: the episodes themselves, the policy as it was before the first step, or its average over the steps so far. The
    last two play a group of their own: `frozen` once a task, `average` at every step."""
    teacher_decay: float = Field(default=0.9, ge=0, lt=1)
    """Share of the averaged teacher that stays at each step."""

    def check(
        self, *, eval_every: int, signals: bool, adaptive: bool, one_step_off: bool, is_served: bool
    ) -> None:
        """Raises UsageError for a run in which a collapse would go unseen, or which would use labels that it does not have."""
        if not eval_every:
            raise UsageError(
                "train.self_training needs a held-out slice with true labels, or nobody sees votes go wrong: set train.eval.every, "
                "such as to 5 GRPO steps; train.export=best then hands over the adapter from before it."
            )
        if not signals:
            raise UsageError(
                "train.self_training needs train.signals: they tell when everybody gives one answer. Leave signals on."
            )
        if adaptive:
            raise UsageError(
                "train.curriculum.adaptive goes by true labels, which tasks of train.self_training do not have. Leave one out."
            )
        if self.teacher != "policy" and (one_step_off or is_served):
            other = "train.one_step_off" if one_step_off else "train.server"
            raise UsageError(
                f"train.self_training.teacher={self.teacher} needs the sampler of this process to itself: no {other}."
            )
