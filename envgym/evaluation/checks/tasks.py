"""Task checks: tasks are valid, splits are disjoint, and prompts do not contain the solution."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator
from typing import Any

from envgym.env import ToolWorld
from envgym.errors import EnvgymError
from envgym.evaluation.checks.fixture import CheckFixture, CheckResult, check_result
from envgym.rewards.state_names import tables_in, unmatched
from envgym.rewards.table_columns import RESERVED_KEYS
from envgym.tasks import ANY, SPLITS, Task
from envgym.values import fold

TRAIN_TASKS = 100
"""Default number of training tasks to check; their number is unlimited."""
CHARACTERS_A_TOKEN = 4
"""Average number of characters per token in English, because no tokenizer is available here."""


def draw_tasks(
    world: ToolWorld, per_split: int | None
) -> tuple[dict[str, list[Task]], CheckResult]:
    """Return the tasks to check, and the result of making each one twice.

    A task fails if it cannot be made, differs when made again, or does not fit the environment.
    """
    tasks: dict[str, list[Task]] = {split: [] for split in SPLITS}
    offenders = []
    for split in SPLITS:
        for task_id in world.tasks.ids(split, count=_count(world.tasks.sizes[split], per_split)):
            try:
                task = world.tasks.task(task_id)
                problem = _undeclared(world, task, world.tasks.task(task_id))
            except EnvgymError as error:
                problem = str(error)
            except Exception as error:  # templates are user code
                problem = f"{task_id}: the template raised {type(error).__name__}: {error}"
            else:
                tasks[split].append(task)
            offenders += [problem] if problem else []
    total = sum(map(len, tasks.values()))
    offenders += _unknown_names(world, tasks["val"])
    return tasks, check_result(
        "task_declaration_accuracy",
        offenders,
        f"{total} tasks drawn, each valid and equal when drawn again",
    )


def _unknown_names(world: ToolWorld, tasks: list[Task]) -> list[str]:
    """Return the patterns of `state:` that match no table or column of the first task.

    Loading cannot find these if an MCP server defines the tables.
    """
    if not tasks:
        return []
    with contextlib.closing(world.tasks.tables(tasks[0].seed)) as db:
        return list(unmatched(world.spec, dict(world.keys) | tables_in(db)))


def _count(size: int | None, wanted: int | None) -> int:
    """Return the number of tasks to draw from a split of this size (None: without end)."""
    if size is None:
        return TRAIN_TASKS if wanted is None else wanted
    return size if wanted is None else min(wanted, size)


def _undeclared(world: ToolWorld, task: Task, again: Task) -> str:
    if task != again:
        return (
            f"{task.id}: differs when drawn again; "
            "a template may only use draw.rng and the rows of draw"
        )
    offered = world.tools_of(task)
    if missing := [call.name for call in task.oracle if call.name not in offered]:
        return f"{task.id}: its oracle calls {missing[0]}, which the task does not offer"
    known = world.keys.keys() | RESERVED_KEYS.keys()
    if unknown := [change.table for change in task.changes if change.table not in known]:
        return f"{task.id}: expects a change in '{unknown[0]}', which is not a table"
    if not task.prompt.strip():
        return f"{task.id}: has an empty prompt"
    return ""


def splits_disjoint(fixture: CheckFixture) -> CheckResult:
    """Check that no prompt and no initial state occurs in two splits.

    Otherwise a policy could solve held-out tasks from memory.
    """
    offenders = []
    for index, split in enumerate(SPLITS):
        for other in SPLITS[index + 1 :]:
            offenders += _shared(fixture.tasks[split], fixture.tasks[other], split, other)
    counts = ", ".join(f"{split} {len(tasks)}" for split, tasks in fixture.tasks.items())
    return check_result(
        "splits_disjoint", offenders, f"no prompt and no starting state in two splits ({counts})"
    )


def _shared(tasks: list[Task], others: list[Task], split: str, other: str) -> Iterator[str]:
    prompts = {task.prompt: task.id for task in others}
    seeds = {task.seed: task.id for task in others}
    for task in tasks:
        if task.prompt in prompts:
            yield f"{task.id} ({split}) and {prompts[task.prompt]} ({other}) have the same prompt"
        elif task.seed in seeds:
            yield (
                f"{task.id} ({split}) and {seeds[task.seed]} ({other}) "
                "start from the same state seed"
            )


def no_solution_leakage(fixture: CheckFixture) -> CheckResult:
    """Check that the opening messages do not contain the solution.

    Values that the user's request gives are allowed.
    """
    offenders = [
        f"{task.id}: the opening shows {value!r}, which its request does not give"
        for task in fixture.all_tasks
        for value in _leaked(fixture.world, task)
    ]
    return check_result(
        "no_solution_leakage",
        offenders,
        f"{len(fixture.all_tasks)} openings contain no value of the solution",
    )


def _leaked(world: ToolWorld, task: Task) -> list[str]:
    opening = "\n".join(
        message.content for message in world.opening(task) if message.content != task.prompt
    )
    choices = list(_choices(tool.parameters for tool in world.tools_of(task).values()))
    return [
        value
        for value in dict.fromkeys(_solution(task))
        if _stands_in(value, opening)
        and not _stands_in(value, task.prompt)
        and not any(fold(value) == fold(str(choice)) for choice in choices)
    ]


def _solution(task: Task) -> Iterator[str]:
    """Yield the values that decide: keys and cells of the expected changes, and the facts.

    Booleans are excluded, because they occur in any prompt.
    """
    yield from task.facts
    for change in task.changes:
        for value in (change.key, *change.values.values()):
            if value not in (None, "", ANY) and not isinstance(value, bool):
                yield str(value)


def _stands_in(value: str, text: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(value.casefold())}(?!\w)", text.casefold()) is not None


def _choices(schemas: Iterable[Any]) -> Iterator[Any]:
    """Yield every enum value in the tools' schemas.

    The opening lists all of them, so the correct one is no leak.
    """
    for schema in schemas:
        if isinstance(schema, dict):
            yield from schema.get("enum", ())
            yield from _choices(schema.values())
        elif isinstance(schema, list):
            yield from _choices(schema)


def prompt_size(fixture: CheckFixture) -> CheckResult:
    """Report the longest opening by level. This check always passes."""
    longest: dict[str, int] = {}
    for task in fixture.all_tasks:
        size = sum(len(message.content) for message in fixture.world.opening(task))
        longest[task.level or "all"] = max(size, longest.get(task.level or "all", 0))
    words = [
        f"{level} {size} characters (about {size // CHARACTERS_A_TOKEN} tokens)"
        for level, size in sorted(longest.items())
    ]
    return CheckResult("prompt_size", True, "longest opening: " + ", ".join(words))
