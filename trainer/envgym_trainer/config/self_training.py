"""The `train.plan` block `self_training`: training on tasks without true labels.

Importable without torch. See `rollout/plans/self_training.py` for the procedure.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from envgym.block import Block
from envgym.errors import UsageError


class SelfTrainingConfig(Block):
    """Tasks without a true label are rewarded by the majority vote of their group.

    The vote is the reward part with `from: majority_vote`. It does not depend on the truth, and the
    same answer for every task wins it. Therefore the tasks are a bounded pool, and validation and
    `checks.hacking_signals` must be on.
    """

    name: Literal["self_training"]
    """Name of the plan."""
    pool_size: int = Field(default=256, ge=2)
    """Number of training tasks of the whole run, drawn once. At least 2."""
    easiest_fraction: float = Field(default=1.0, gt=0, le=1)
    """Fraction of the pool that is used: of each level, the tasks with the highest agreement before
    the first step. Above 0, at most 1. Below 1, one group of every task is played to measure it."""
    true_label_fraction: float = Field(default=0.05, ge=0, le=1)
    """Fraction of these tasks that keep their true label and do not use the vote. 0 to 1."""
    max_true_labels: int | None = Field(default=None, ge=0)
    """Maximum number of true labels. At least 0. None: no limit."""
    labelled_levels: tuple[str, ...] = ()
    """Levels whose tasks all keep their true label and do not count towards the limit. If set, the
    warm start uses these levels only."""
    labelled_group_fraction: float | None = Field(default=None, gt=0, lt=1)
    """Fraction of each step's groups whose task has a true label; such tasks are drawn repeatedly.
    Above 0, below 1. None: they are drawn like all others."""
    label_free_parts: tuple[str, ...] = ()
    """Reward parts that need no true label, such as one for the format. They count on every task;
    all others but the vote count only on tasks with a true label."""
    keep_fraction: float = Field(default=1.0, gt=0, le=1)
    """Fraction of the groups that is used for training: those with a true label first, then those
    with the highest agreement. Above 0, at most 1. A step collects
    `rollout.groups_per_step / keep_fraction` groups."""
    teacher: Literal["policy", "frozen", "average"] = "policy"
    """Source of the votes: the episodes themselves, the policy before the first step, or its moving
    average. The last two play a group of their own: `frozen` once a task, `average` at every
    step."""
    teacher_decay: float = Field(default=0.9, ge=0, lt=1)
    """Decay of the moving average of the teacher, a step. 0 to below 1."""

    def check(
        self,
        *,
        validates: bool,
        hacking_signals: bool,
        adaptive: bool,
        one_step_ahead: bool,
        engine: str,
    ) -> None:
        """Check the plan against the other settings of the run.

        Raises:
            UsageError: If a collapse could not be seen, or labels would be used that are not there.
        """
        if not validates:
            raise UsageError(
                "train.plan=self_training needs held-out tasks with true labels to detect wrong "
                "votes: set train.evaluation.validate_every_steps, such as to 5. "
                "train.output.adapter=best then keeps the adapter from before a collapse."
            )
        if not hacking_signals:
            raise UsageError(
                "train.plan=self_training needs train.checks.hacking_signals, which detect that "
                "all answers become equal. Leave it on."
            )
        if adaptive:
            raise UsageError(
                "train.tasks.adaptive needs true labels, which tasks of train.plan=self_training "
                "do not have. Leave one out."
            )
        if self.teacher != "policy" and (one_step_ahead or engine != "in_process"):
            other = "train.rollout.one_step_ahead" if one_step_ahead else f"train.engine={engine}"
            raise UsageError(
                f"train.plan.teacher={self.teacher} needs exclusive use of the in-process engine. "
                f"Leave out {other}, or set train.plan.teacher=policy."
            )
