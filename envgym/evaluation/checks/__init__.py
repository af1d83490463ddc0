"""Check that an environment and its grader are correct: `envgym check envs/crm.yaml`.

    tool and task declarations   no crash; every task can be made and solved
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

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from envgym.errors import EnvgymError
from envgym.evaluation.checks.fixture import CheckFixture, CheckResult
from envgym.spec.environment import EnvSpec

if TYPE_CHECKING:
    from envgym.env import ToolWorld
    from envgym.world import World

Progress = Callable[[str, int], None]
"""Callback with the name of the current check and the number of episodes played."""

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
    from envgym.env import ToolWorld
    from envgym.registration import make_world

    world = make_world(spec)
    try:
        if not isinstance(world, ToolWorld):  # a foreign environment has no tables to compare
            return _foreign(spec, world, progress)
        return _own(spec, world, tasks_per_split, random_ceiling, refuse_ceiling, progress)
    finally:
        world.close()


def _own(
    spec: EnvSpec,
    world: ToolWorld,
    tasks_per_split: int | None,
    random_ceiling: float,
    refuse_ceiling: float,
    progress: Progress,
) -> list[CheckResult]:
    from envgym.evaluation.checks import determinism, floors, grader
    from envgym.evaluation.checks import tasks as shipped

    tasks, declared = shipped.draw_tasks(world, tasks_per_split)
    if not declared.passed:  # the other checks need valid tasks
        return [declared]
    bench = CheckFixture(world, tasks)
    checks: dict[str, Callable[[], CheckResult | list[CheckResult]]] = {
        "oracle_max": lambda: floors.oracle_max(bench),
        "floor_gap": lambda: floors.floor_gap(bench),
        "canary_floor.refuse": lambda: floors.canary_refuse(bench, refuse_ceiling),
        "canary_floor.random": lambda: floors.canary_random(bench, random_ceiling),
        "tool_declaration_accuracy": lambda: floors.tool_declaration_accuracy(bench),
        "wrong_field": lambda: grader.wrong_field(bench),
        "extra_write": lambda: grader.extra_write(bench),
        "reads_free": lambda: grader.reads_free(bench),
        "seed_control": lambda: determinism.seed_control(world),
        "episode_determinism": lambda: determinism.episode_determinism(
            spec, world, [task.id for task in bench.sample(determinism.TASKS)]
        ),
        "episode_isolation": lambda: determinism.episode_isolation(bench),
        "no_solution_leakage": lambda: shipped.no_solution_leakage(bench),
        "splits_disjoint": lambda: shipped.splits_disjoint(bench),
        "prompt_size": lambda: shipped.prompt_size(bench),
    }
    return [declared, *_run(checks, progress, bench)]


def _foreign(spec: EnvSpec, world: World, progress: Progress) -> list[CheckResult]:
    from envgym.evaluation.checks import determinism

    ids = [task_id for split in ("train", "test") for task_id in world.tasks.ids(split, count=8)]
    checks = {
        "seed_control": lambda: determinism.seed_control(world),
        "episode_determinism": lambda: determinism.episode_determinism(spec, world, ids),
    }
    return _run(checks, progress, None)


def _run(
    checks: dict[str, Callable[[], Any]], progress: Progress, bench: CheckFixture | None
) -> list[CheckResult]:
    results: list[CheckResult] = []
    played = 0

    def count(episode: Any) -> None:
        nonlocal played
        played += 1
        progress(name, played)

    if bench is not None:
        bench.on_episode = count
    for name, run in checks.items():
        progress(name, played)
        try:
            found = run()
        except EnvgymError as failure:
            found = CheckResult(name, False, str(failure))
        results += found if isinstance(found, list) else [found]
    return results


def print_checks(results: Sequence[CheckResult], *, as_json: bool = False) -> None:
    """Print the results as a table, or as JSON."""
    if as_json:
        plain = [
            {"id": result.id, "passed": result.passed, "detail": result.detail}
            | ({"warning": True} if result.warning else {})
            for result in results
        ]
        print(
            json.dumps(
                {"passed": all(result.passed for result in results), "checks": plain},
                ensure_ascii=False,
                indent=2,
            )
        )
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False)
    for result in results:
        mark = Text("ok", style="green") if result.passed else Text("FAIL", style="bold red")
        mark = Text("warn", style="yellow") if result.warning else mark
        table.add_row(mark, Text(result.id, style="bold"), Text(result.detail))
    console = Console()
    console.print(table)
    failed = sum(not result.passed for result in results)
    console.print(f"{len(results) - failed} of {len(results)} checks passed")
