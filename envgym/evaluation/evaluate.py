"""Evaluate a policy on a fixed set of tasks."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from envgym.episode import Episode
from envgym.evaluation.report import Outcome
from envgym.failures import FailureLimit
from envgym.playing import Request, play_many
from envgym.policies import Policy
from envgym.tasks import Split, stable_seed
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
        name: Display name of the policy.
        split: Split from which the tasks are taken.
        levels: Levels to include; empty for all.
        tasks: Number of tasks. Default: the whole split, or 100 for train, which is unlimited.
        seed: Seed of the policy's sampling.
        workers: Maximum number of episodes that run at the same time.
        progress: Whether to show a progress bar if stderr is a terminal.
        episodes_file: JSONL file to which every episode is appended, also after an error or Ctrl-C.

    Returns:
        Success rates with intervals, overall and by level, mean reward and mean turns.

    Raises:
        TooManyFailures: If more episodes are void than `episode.max_void_fraction` allows.

    >>> from envgym import OraclePolicy, load_spec, make_world
    >>> world = make_world(load_spec("guess"))
    >>> evaluate(world, OraclePolicy(), name="oracle", tasks=5, progress=False).total.successes
    5
    """
    count = tasks if tasks is not None else (100 if split == "train" else None)
    ids = world.tasks.ids(split, levels=levels, count=count)
    requests = [Request(task, stable_seed(seed, task)) for task in ids]
    logged = (
        f"Every episode is in {episodes_file}."
        if episodes_file
        else "To keep every episode: --episodes FILE."
    )
    cap = FailureLimit(world.spec.episode.max_void_fraction, logged=logged)
    played = []
    try:
        with _bar(name, len(ids)) if progress else nullcontext(lambda episode: None) as tick:

            def on_episode(episode: Episode) -> None:
                played.append(episode)
                tick(episode)

            played = play_many(
                world.env, policy, requests, workers=workers, on_episode=on_episode, cap=cap
            )
    finally:
        if episodes_file:
            _append(Path(episodes_file), played)
    return Outcome.of(name, played, trained=trained_templates(world.tasks))


def trained_templates(tasks: TaskSet) -> frozenset[str]:
    """Return the names of the templates that training uses."""
    return frozenset(name for name, each in tasks.templates.items() if "train" in each.splits)


def _append(file: Path, episodes: Sequence[Episode]) -> None:
    with file.open("a", encoding="utf-8") as stream:
        stream.writelines(episode.to_json() + "\n" for episode in episodes)


class _bar:
    """Progress bar on stderr that also shows the current success rate."""

    def __init__(self, title: str, total: int):
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        self.progress = Progress(*columns, console=Console(stderr=True), transient=True)
        self.title = title
        self.solved = 0
        self.done = 0
        self.bar = self.progress.add_task(title, total=total)

    def __enter__(self) -> Any:
        self.progress.start()
        return self.tick

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def tick(self, episode: Episode) -> None:
        self.done += 1
        self.solved += bool(episode.success)
        self.progress.update(
            self.bar, advance=1, description=f"{self.title}: {self.solved / self.done:.0%} solved"
        )
