"""Going on with a run that was stopped or killed.

A run may die between any two instructions. Checkpoints appear whole or not at all (`runs.py`), so what is left to do is to take
the last one that is what was written, and to drop the lines that tell of anything later.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from envgym.errors import UsageError
from envgym_trainer.learner.learner import Learner
from envgym_trainer.run.folder import RunFolder
from envgym_trainer.training import checkpoint
from envgym_trainer.training.checkpoint import DamagedCheckpoint, Progress, Stateful

Say = Callable[[str], None]


def restore(
    folder: RunFolder,
    learner_at: Callable[[int], Learner],
    parts: Mapping[str, Stateful],
    *,
    say: Say,
) -> tuple[Learner, Progress]:
    """The learner and progress of the last whole checkpoint; those of the start where the run was killed before its first.

    Args:
        folder: of the run; leftovers of a kill are removed, later lines dropped, damaged checkpoints set aside.
        learner_at: makes the learner that a run has at a step.
        parts: take their states back.
        say: told of everything that a person should know.
    Raises: UsageError where every checkpoint is damaged or belongs to another adapter.
    """
    folder.recover()
    found = folder.checkpoints()
    for step, path in reversed(found):
        learner = learner_at(step)
        try:
            progress = checkpoint.load(path, learner, parts)
        except DamagedCheckpoint as damage:
            say(
                f"WARNING: {damage}. It is set aside as {folder.set_aside(path).name}; the one before it is taken."
            )
            continue
        if progress.best and not folder.checkpoint(int(progress.best["step"])).is_dir():
            say(
                f"WARNING: the best checkpoint so far, of step {progress.best['step']}, is gone. The best is sought anew."
            )
            progress.best = None
        folder.rewind(progress.written, step=step)
        return learner, progress
    if found or folder.set_aside_before() or folder.adapter.exists():
        raise UsageError(
            f"{folder.path}: it has no checkpoint that can be read (damaged ones are set aside in {folder.path}/checkpoints). "
            "Put back a copy of one, or start the run again without --resume."
        )
    say(
        f"{folder.path} was stopped before its first checkpoint: it starts again from the beginning."
    )
    folder.rewind({}, step=-1)
    return learner_at(0), Progress()
