"""Which of a run's adapters is the best, told by success on validation tasks, and handing that one over.

The test tasks of the table at the end take no part in the choice, so their interval stays honest.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from envgym_trainer.config import TrainConfig
from envgym_trainer.learner.learner import Learner
from envgym_trainer.model.lora import with_adapter
from envgym_trainer.run.display import Display
from envgym_trainer.run.folder import RunFolder
from envgym_trainer.training import checkpoint
from envgym_trainer.training.checkpoint import DamagedCheckpoint, Progress


def is_due(progress: Progress, config: TrainConfig, *, warmup_steps: int, total_steps: int) -> bool:
    """Whether the step that was just finished is to be validated and has not been yet."""
    step = progress.step
    every = config.eval.every
    if not every or step <= max(progress.validated, warmup_steps):
        return False
    if (
        step == total_steps
    ):  # evaluated anyway; but to be handed over as the best it must compare with the others
        return config.export == "best"
    return (step - warmup_steps) % every == 0


def note(progress: Progress, success: float | None, *, tasks: int, written: dict[str, int]) -> bool:
    """Writes a finished validation into the progress. Returns whether it is the best so far; of equals the earlier stays.

    Args:
        success: share of solved tasks, None where no episode tells it.
        tasks: how many were played. written: `RunFolder.written` behind its lines.
    """
    progress.validated = progress.step
    progress.written = written
    if success is None or (progress.best and success <= progress.best["success"]):
        return False
    progress.best = {"step": progress.step, "success": success, "tasks": tasks}
    return True


def recipe(progress: Progress, config: TrainConfig) -> dict[str, str]:
    """The model card's line about which adapter this is; none for that of the last step."""
    if config.export == "last" or progress.best is None:
        return {}
    step, success, tasks = (progress.best[name] for name in ("step", "success", "tasks"))
    return {
        "adapter of": f"step {step:.0f}, the best of the validations ({success:.0%} of {tasks:.0f} tasks)"
    }


@contextmanager
def best_adapter(
    folder: RunFolder, progress: Progress, learner: Learner, display: Display
) -> Iterator[None]:
    """While in the block the model has the adapter of the best validation, or that of the last step where nothing was validated.

    Raises: DamagedCheckpoint where the best one is not what was written.
    """
    if progress.best is None:
        display.note(
            "WARNING: no validation told a success, so the adapter of the last step counts as the best."
        )
        yield
        return
    path = folder.checkpoint(int(progress.best["step"]))
    try:
        checkpoint.verify(path)
    except DamagedCheckpoint as damage:
        raise DamagedCheckpoint(
            f"{damage}. It was the best; hand over the last: --resume {folder.path} train.export=last"
        ) from None
    best = torch.load(path / "learner.pt", weights_only=True)["adapter"]
    with with_adapter(learner.parameters, best):
        yield
