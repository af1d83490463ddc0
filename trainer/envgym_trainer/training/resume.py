"""Resume a run that was stopped or killed.

A run may die between any two instructions. Checkpoints are written atomically (see
`files.py`), so resuming means loading the last undamaged checkpoint and dropping later lines
of the log files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from envgym.errors import UsageError
from envgym_trainer.learner.learner import Learner
from envgym_trainer.run.folder import RunFolder
from envgym_trainer.training import checkpoint
from envgym_trainer.training.checkpoint import DamagedCheckpoint, Progress, Stateful

Notify = Callable[[str], None]


def restore(
    folder: RunFolder,
    new_learner: Callable[[], Learner],
    stateful: Mapping[str, Stateful],
    *,
    notify: Notify,
) -> tuple[Learner, Progress]:
    """Restore the learner and the progress from the last undamaged checkpoint.

    A run that was killed before its first checkpoint starts from the beginning.

    Args:
        folder: Run folder. Leftovers of a kill are removed, later lines are dropped and damaged
            checkpoints are quarantined.
        new_learner: Creates the learner.
        stateful: Objects whose state is restored.
        notify: Receives one line of text for each problem.

    Raises:
        UsageError: If every checkpoint is damaged or belongs to another adapter.
    """
    folder.recover()
    found = folder.checkpoints()
    for step, path in reversed(found):
        learner = new_learner()
        try:
            progress = checkpoint.load(path, learner, stateful)
        except DamagedCheckpoint as damage:
            notify(
                f"WARNING: {damage}. It is set aside as {folder.quarantine(path).name}; the one "
                "before it is taken."
            )
            continue
        if progress.best and not folder.checkpoint(int(progress.best["step"])).is_dir():
            notify(
                f"WARNING: the best checkpoint so far, of step {progress.best['step']}, is "
                "missing. "
                "The search for the best one starts again."
            )
            progress.best = None
        folder.truncate_to(progress.file_sizes, step=step)
        return learner, progress
    if found or folder.has_quarantine() or folder.adapter.exists():
        raise UsageError(
            f"{folder.path}: it has no checkpoint that can be read (damaged ones are set aside in "
            f"{folder.path}/checkpoints). Put back a copy of one, or start the run again without "
            "--resume."
        )
    notify(
        f"{folder.path} was stopped before its first checkpoint, so it starts from the beginning."
    )
    folder.truncate_to({}, step=-1)
    return new_learner(), Progress()
