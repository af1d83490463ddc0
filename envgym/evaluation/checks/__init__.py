"""Check that an environment and its grader are correct: `envgym check envs/crm.yaml`.

    tool and task declarations   no tool fails; every task can be made and solved
    oracle_max, floor_gap        the oracle gets the full reward, doing nothing gets none
    canary_floor                 constant refusals and random calls stay near 0
    wrong_field, extra_write     nearly correct is not solved
    reads_free                   reads do not change the reward
    seeds, determinism           equal results when repeated, in threads and in another process
    splits, leakage              held-out tasks are new, and no prompt contains the solution

Ids follow OpenEnv RFC 008 if it defines one. Not included: checks that need a model (difficulty,
headroom), and tests of the sandbox's isolation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from rich.table import Table
from rich.text import Text

from envgym.env import ToolWorld
from envgym.episode import Episode
from envgym.errors import EnvgymError
from envgym.evaluation.checks import determinism, floors, grader
from envgym.evaluation.checks import tasks as task_checks
from envgym.evaluation.checks.fixture import CheckFixture, CheckResult
from envgym.registration import make_world
from envgym.spec.environment import EnvSpec
from envgym.text import to_json, visible
from envgym.text.terminal import Console
from envgym.world import World

Progress = Callable[[str, int], None]
"""Callback with the name of the current check and the number of episodes played."""
Check = Callable[[], CheckResult | list[CheckResult]]

__all__ = ["CheckResult", "check", "print_checks"]


def check(
    spec: EnvSpec,
    *,
    tasks_per_split: int | None = None,
    random_ceiling: float = 0.10,
    refuse_ceiling: float = 0.10,
    progress: Progress = lambda check, episodes: None,
) -> list[CheckResult]:
    """Check an environment and its grader, in an order that puts causes before consequences.

    Args:
        spec: Definition of the environment.
        tasks_per_split: Number of tasks per split. Default: all of val and test, and 100 of train.
        random_ceiling: Fraction of tasks that random calls may solve. The check fails if the lower
            end of the 95 % interval is above it.
        refuse_ceiling: The same limit for a constant refusal.
        progress: Called when a check starts and after each episode.

    Returns:
        One result per check. For a foreign Gymnasium environment only the checks that need no
        tasks.

    Raises:
        SpecError: If the environment cannot be opened.
        PrerequisiteError: If something must be installed or started first.
    """
    report = _Report(progress)
    world = make_world(spec)
    try:
        if not isinstance(world, ToolWorld):  # a foreign environment has no tables to compare
            return report.run(_foreign_checks(world))
        tasks, declared = task_checks.draw_tasks(world, tasks_per_split)
        if not declared.passed:  # the other checks need valid tasks
            return [declared]
        fixture = CheckFixture(world, tasks, on_episode=report.count)
        return [declared, *report.run(_own_checks(fixture, random_ceiling, refuse_ceiling))]
    finally:
        world.close()


class _Report:
    """Run checks and report their progress."""

    def __init__(self, progress: Progress):
        self._progress = progress
        self._check = ""
        self._played = 0

    def count(self, episode: Episode) -> None:
        self._played += 1
        self._progress(self._check, self._played)

    def run(self, checks: Mapping[str, Check]) -> list[CheckResult]:
        """Run the checks in order. A check that raises an `EnvgymError` fails."""
        results: list[CheckResult] = []
        for name, check in checks.items():
            self._check = name
            self._progress(name, self._played)
            try:
                found = check()
            except EnvgymError as failure:
                found = CheckResult(name, False, str(failure))
            results += found if isinstance(found, list) else [found]
        return results


def _own_checks(
    fixture: CheckFixture, random_ceiling: float, refuse_ceiling: float
) -> dict[str, Check]:
    """Return the checks of an environment with tools, by name."""
    world = fixture.world
    ids = [task.id for task in fixture.sample(determinism.TASKS)]
    return {
        "oracle_max": partial(floors.oracle_max, fixture),
        "floor_gap": partial(floors.floor_gap, fixture),
        "canary_floor.refuse": partial(floors.canary_refuse, fixture, refuse_ceiling),
        "canary_floor.random": partial(floors.canary_random, fixture, random_ceiling),
        "tool_declaration_accuracy": partial(floors.tool_declaration_accuracy, fixture),
        "wrong_field": partial(grader.wrong_field, fixture),
        "extra_write": partial(grader.extra_write, fixture),
        "reads_free": partial(grader.reads_free, fixture),
        "seed_control": partial(determinism.seed_control, world),
        "episode_determinism": partial(determinism.episode_determinism, world, ids),
        "episode_isolation": partial(determinism.episode_isolation, fixture),
        "no_solution_leakage": partial(task_checks.no_solution_leakage, fixture),
        "splits_disjoint": partial(task_checks.splits_disjoint, fixture),
        "prompt_size": partial(task_checks.prompt_size, fixture),
        "tool_failures": partial(floors.tool_failures, fixture),
    }


def _foreign_checks(world: World) -> dict[str, Check]:
    """Return the checks that need no tools and no hidden truth, by name."""
    ids = [*world.tasks.ids("train", count=8), *world.tasks.ids("test", count=8)]
    return {
        "seed_control": partial(determinism.seed_control, world),
        "episode_determinism": partial(determinism.episode_determinism, world, ids),
    }


def print_checks(results: Sequence[CheckResult], *, as_json: bool = False) -> None:
    """Print the results as a table, or as JSON."""
    if as_json:
        print(_to_json(results))
        return
    console = Console()
    console.print(_to_table(results))
    failed = sum(not result.passed for result in results)
    console.print(f"{len(results) - failed} of {len(results)} checks passed")


def _to_json(results: Sequence[CheckResult]) -> str:
    checks = [
        {"id": result.id, "passed": result.passed, "detail": result.detail}
        | ({"warning": True} if result.warning else {})
        for result in results
    ]
    plain = {"passed": all(result.passed for result in results), "checks": checks}
    return to_json(plain, indent=2)


def _to_table(results: Sequence[CheckResult]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    for result in results:
        mark = Text("ok", style="green") if result.passed else Text("FAIL", style="bold red")
        mark = Text("warn", style="yellow") if result.warning else mark
        table.add_row(mark, Text(result.id, style="bold"), Text(visible(result.detail)))
    return table
