"""Select the best adapter of a run by success on validation tasks, and export it.

The candidates are the base model, the warm start and the validated steps. The test tasks are not
used for the choice, so the intervals of the final table stay valid.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from envgym.evaluation.stats import percent_text
from envgym_trainer.config import TrainConfig
from envgym_trainer.learner.learner import Learner
from envgym_trainer.model.lora import with_adapter
from envgym_trainer.run.display import Display
from envgym_trainer.run.folder import RunFolder
from envgym_trainer.training import checkpoint
from envgym_trainer.training.checkpoint import DamagedCheckpoint, Progress
from envgym_trainer.training.schedule import Schedule


def record_validation(
    progress: Progress, success: float | None, *, tasks: int, file_sizes: dict[str, int]
) -> bool:
    """Record a finished validation in `progress`.

    Args:
        progress: Progress of the run; changed in place.
        success: Fraction of solved tasks; `None` if no episode reports success.
        tasks: Number of tasks played.
        file_sizes: Value of `RunFolder.file_sizes` after the validation's lines.

    Returns:
        Whether this validation is the best. If two are equal, the earlier one stays the best.
    """
    progress.last_validated_step = progress.step
    progress.file_sizes = file_sizes
    if success is None or (progress.best and success <= progress.best["success"]):
        return False
    progress.best = {"step": progress.step, "success": success, "tasks": tasks}
    return True


def describe_adapter(progress: Progress, config: TrainConfig) -> dict[str, str]:
    """Return the model card's entry about the best adapter; empty for the last step's adapter."""
    if config.output.adapter != "best" or progress.best is None:
        return {}
    name = Schedule(config).name_of(int(progress.best["step"]))
    return {"adapter of": f"{name}, the best of the validations ({_result(progress.best)})"}


def announce(progress: Progress, config: TrainConfig) -> str:
    """Return a line about the adapter that is exported as the best; empty without one."""
    if config.output.adapter != "best" or progress.best is None:
        return ""
    schedule = Schedule(config)
    step = int(progress.best["step"])
    name = schedule.name_of(step)
    if step > schedule.warmup_steps:
        return f"best adapter: {name} ({_result(progress.best)})"
    kind = "an adapter without effect" if step == 0 else "its adapter"
    return (
        f"best adapter: no GRPO step solved more validation tasks than the {name} "
        f"({_result(progress.best)}), so {kind} is exported"
    )


def _result(best: dict[str, float]) -> str:
    return f"{percent_text(best['success'])}% of {best['tasks']:.0f} tasks"


@contextmanager
def best_adapter(
    folder: RunFolder, progress: Progress, learner: Learner, display: Display
) -> Iterator[None]:
    """Use the adapter of the best validation while in the block.

    Without a validation the adapter of the last step is used.

    Raises:
        DamagedCheckpoint: If the best checkpoint does not match its manifest.
    """
    if progress.best is None:
        display.note(
            "WARNING: no validation reported success. The adapter of the last step is exported."
        )
        yield
        return
    path = folder.checkpoint(int(progress.best["step"]))
    try:
        checkpoint.verify(path)
    except DamagedCheckpoint as damage:
        raise DamagedCheckpoint(
            f"{damage}. It was the best checkpoint. To export the last one: "
            f"--resume {folder.path} train.output.adapter=last"
        ) from None
    best = torch.load(path / "learner.pt", weights_only=True)["adapter"]
    with with_adapter(learner.parameters, best):
        yield
