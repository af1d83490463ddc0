"""Evaluate a policy on a fixed set of tasks."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from envgym.episode import Episode
from envgym.errors import SpecError, UsageError, did_you_mean
from envgym.evaluation.report import Outcome
from envgym.evaluation.stats import percent_text
from envgym.failures import FailureLimit
from envgym.playing import Request, play_many
from envgym.policies import Policy
from envgym.tasks import Split, stable_seed
from envgym.text import natural_key, one_line
from envgym.world import TaskSet, World


def evaluate(
    world: World,
    policy: Policy,
    *,
    name: str,
    split: Split = "test",
    levels: Sequence[str] = (),
    tasks: int | None = None,
    seed: int = 0,
    workers: int = 64,
    progress: bool = True,
    episodes_file: str | Path | None = None,
) -> Outcome:
    """Play each task once and return the results.

    Args:
        world: Return value of `envgym.make_world`.
        policy: Policy to evaluate.
        name: Name of the policy, in the table and in each record.
        split: Split from which the tasks are taken.
        levels: Levels to include, each with a template in the split; empty for all.
        tasks: Number of tasks, at least 1. Default: the whole split, or 100 for train, which is
            unlimited.
        seed: Seed of the policy's sampling, 0 or more.
        workers: Maximum number of episodes that run at the same time, at least 1.
        progress: Whether to show a progress bar if stderr is a terminal.
        episodes_file: JSONL file, opened before the first episode. Each episode is appended when it
            ends, so an error or Ctrl-C loses none.

    Returns:
        Success rates with intervals, overall and by level, mean reward and mean turns.

    Raises:
        TooManyFailures: If more episodes are void than `episode.max_void_fraction` allows, or if
            all are, because nothing was measured then.
        UsageError: If no task is selected, a number is out of range, or the file cannot be opened.
        SpecError: If a level does not exist.

    >>> from envgym import OraclePolicy, load_spec, make_world
    >>> world = make_world(load_spec("guess"))
    >>> evaluate(world, OraclePolicy(), name="oracle", tasks=5, progress=False).total.successes
    5
    """
    _check_numbers(tasks=tasks, workers=workers, seed=seed)
    _check_levels(world, split, levels)
    count = tasks if tasks is not None else (100 if split == "train" else None)
    ids = world.tasks.ids(split, levels=levels, count=count)
    if not ids:
        raise UsageError(f"split '{split}' of {world.spec.id} has no task, so nothing is evaluated")
    requests = [Request(task, stable_seed(seed, task)) for task in ids]
    logged = (
        f"Every episode is in {episodes_file}."
        if episodes_file
        else "To keep every episode: --episodes FILE."
    )
    cap = FailureLimit(world.spec.episode.max_void_fraction, logged=logged)
    played: list[Episode] = []
    bar = _bar(name, len(ids)) if progress else nullcontext(_ignore)
    with _appended(episodes_file) as write, bar as tick:

        def on_episode(episode: Episode) -> None:
            played.append(dataclasses.replace(episode, policy=name))
            write(played[-1])
            tick(episode)

        play_many(world.env, policy, requests, workers=workers, on_episode=on_episode, cap=cap)
    cap.require_one()
    return Outcome.of(name, played, trained=trained_templates(world.tasks))


def check_file(file: str | Path) -> None:
    """Raise UsageError if lines cannot be appended to a file. It is created if it is missing."""
    with _appended(file):
        pass


def _check_numbers(*, tasks: int | None, workers: int, seed: int) -> None:
    for name, value, least in (("tasks", tasks, 1), ("workers", workers, 1), ("seed", seed, 0)):
        if value is not None and value < least:
            raise UsageError(f"{name} is {value}; an evaluation needs at least {least}")


def _check_levels(world: World, split: Split, levels: Sequence[str]) -> None:
    """Raise SpecError if the split has no template of one of these levels."""
    infos = [each for each in world.tasks.templates.values() if split in each.splits]
    known = sorted({each.level for each in infos if each.level}, key=natural_key)
    for level in levels:
        if level not in known:
            raise SpecError(
                f"{world.spec.path}: split '{split}' has no level '{level}'"
                f"{did_you_mean(level, known)}; levels: {', '.join(known) or 'none'}"
            )


def _ignore(episode: Episode) -> None:
    """Do nothing; the progress is not shown."""


def trained_templates(tasks: TaskSet) -> frozenset[str]:
    """Return the names of the templates that training uses."""
    return frozenset(name for name, each in tasks.templates.items() if "train" in each.splits)


@contextmanager
def _appended(file: str | Path | None) -> Iterator[Callable[[Episode], None]]:
    """Yield a function that appends one line to the file at once, or does nothing without a file.

    Raises:
        UsageError: If the file cannot be opened or written, for example because the disk is full.
    """
    if file is None:
        yield _ignore
        return
    path = Path(file)
    try:
        stream = path.open("a+b", buffering=0)  # so that closing it writes nothing more
    except (OSError, ValueError) as error:  # ValueError: a path with NUL
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(
            f"{path}: episodes cannot be written: {reason}. "
            "Name a file in a folder that exists and can be written"
        ) from None
    with stream:

        def write(episode: Episode) -> None:
            try:
                line = memoryview(episode.to_json().encode() + b"\n")
                while line:
                    line = line[stream.write(line) :]
            except OSError as error:
                raise UsageError(
                    f"{path}: an episode cannot be written: {error.strerror}"
                ) from None

        _end_line(stream)
        yield write


def _end_line(stream: Any) -> None:
    """End the last line of a file if a killed process left it incomplete."""
    if stream.seek(0, os.SEEK_END):
        stream.seek(-1, os.SEEK_END)
        if stream.read(1) != b"\n":
            stream.write(b"\n")


class _bar:
    """Progress bar on stderr that also shows the current success rate."""

    def __init__(self, title: str, total: int):
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        from envgym.text.terminal import Console

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        self.progress = Progress(*columns, console=Console(stderr=True), transient=True)
        self.title = one_line(title)
        self.solved = 0
        self.done = 0
        self.bar = self.progress.add_task(self.title, total=total)

    def __enter__(self) -> Any:
        self.progress.start()
        return self.tick

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def tick(self, episode: Episode) -> None:
        self.done += 1
        self.solved += bool(episode.success)
        self.progress.update(
            self.bar,
            advance=1,
            description=f"{self.title}: {percent_text(self.solved / self.done)} % solved",
        )
