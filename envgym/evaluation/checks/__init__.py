"""Proves that an environment can be trusted: `envgym check envs/crm.yaml`.

    tool and task declarations   nothing crashes, every task can be made and solved
    oracle_max, floor_gap        the truth earns everything, doing nothing earns nothing
    canary_floor                 always refusing and random calls stay at the floor
    wrong_field, extra_write     nearly right is wrong
    reads_free                   reading costs nothing
    seeds, determinism           same task, same bytes: again, in threads, in another process
    splits, leakage              held-out tasks are new, and no answer stands in the question

Ids follow OpenEnv RFC 008 where it has one. Left out: what needs a model (difficulty, headroom, reachability), and the
sandbox's walls, which have their own tests.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from envgym.errors import EnvgymError
from envgym.evaluation.checks.fixture import Bench, CheckResult
from envgym.spec.environment import EnvSpec

Progress = Callable[[str, int], None]
"""(what is being checked, episodes played so far)."""

__all__ = ["CheckResult", "print_checks", "run_checks"]


def run_checks(
    spec: EnvSpec,
    *,
    tasks_per_split: int | None = None,
    random_ceiling: float = 0.10,
    refuse_ceiling: float = 0.10,
    progress: Progress = lambda check, episodes: None,
) -> list[CheckResult]:
    """Every check that applies, in the order in which a failure is best understood.

    Args:
        tasks_per_split: how many tasks of each split; all of val and test and 100 of train by default.
        random_ceiling: share of tasks that random calls may solve; it fails when surely more are (95 %).
        refuse_ceiling: the same for one and the same refusal.
        progress: called as each check starts and as episodes end.
    Returns: one result a check; for a foreign Gymnasium environment only those that need no tasks of ours.
    Raises: SpecError, PrerequisiteError where the environment cannot be opened at all.
    """
    from envgym.registration import make_world

    world = make_world(spec)
    try:
        if spec.gym:
            return _foreign(spec, world, progress)
        return _own(spec, world, tasks_per_split, random_ceiling, refuse_ceiling, progress)
    finally:
        world.close()


def _own(
    spec: EnvSpec,
    world: Any,
    tasks_per_split: int | None,
    random_ceiling: float,
    refuse_ceiling: float,
    progress: Progress,
) -> list[CheckResult]:
    from envgym.evaluation.checks import determinism, floors, grader
    from envgym.evaluation.checks import tasks as shipped

    tasks, declared = shipped.draw_tasks(world, tasks_per_split)
    if not declared.passed:  # nothing can be said of tasks that cannot be made
        return [declared]
    bench = Bench(world, tasks)
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


def _foreign(spec: EnvSpec, world: Any, progress: Progress) -> list[CheckResult]:
    from envgym.evaluation.checks import determinism

    ids = [task_id for split in ("train", "test") for task_id in world.tasks.ids(split, count=8)]
    checks = {
        "seed_control": lambda: determinism.seed_control(world),
        "episode_determinism": lambda: determinism.episode_determinism(spec, world, ids),
    }
    return _run(checks, progress, None)


def _run(
    checks: dict[str, Callable[[], Any]], progress: Progress, bench: Bench | None
) -> list[CheckResult]:
    results: list[CheckResult] = []
    played = 0

    def count(episode: Any) -> None:
        nonlocal played
        played += 1
        progress(name, played)

    if bench is not None:
        bench.on_episode = count
    for name, check in checks.items():
        progress(name, played)
        try:
            found = check()
        except EnvgymError as failure:
            found = CheckResult(name, False, str(failure))
        results += found if isinstance(found, list) else [found]
    return results


def print_checks(results: Sequence[CheckResult], *, as_json: bool = False) -> None:
    """A table on the terminal, or JSON."""
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
