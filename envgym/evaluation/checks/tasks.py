"""The tasks as they are shipped: whole, apart from each other by split, and silent about their solution."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from envgym.env import World
from envgym.errors import EnvgymError
from envgym.evaluation.checks.fixture import Bench, CheckResult, verdict
from envgym.rewards.state_diff import same_value
from envgym.tasks import ANY, SPLITS, Task

TRAIN_TASKS = 100
"""Training tasks that are checked when no number is given; they have no end."""
CHARACTERS_A_TOKEN = 4
"""Rule of thumb for English; no tokenizer is at hand here."""


def draw_tasks(world: World, per_split: int | None) -> tuple[dict[str, list[Task]], CheckResult]:
    """The tasks to be checked, and whether each of them could be made, twice the same, and fits the environment."""
    tasks: dict[str, list[Task]] = {split: [] for split in SPLITS}
    offenders = []
    for split in SPLITS:
        count = (
            per_split
            if split == "train" or per_split is None
            else min(per_split, world.tasks.sizes[split])
        )
        for task_id in world.tasks.ids(
            split, count=TRAIN_TASKS if split == "train" and count is None else count
        ):
            try:
                task = world.tasks.task(task_id)
                problem = _undeclared(world, task, world.tasks.task(task_id))
            except EnvgymError as error:
                problem = str(error)
            except Exception as error:  # templates are the company's code
                problem = f"{task_id}: the template raised {type(error).__name__}: {error}"
            else:
                tasks[split].append(task)
            offenders += [problem] if problem else []
    total = sum(map(len, tasks.values()))
    return tasks, verdict(
        "task_declaration_accuracy",
        offenders,
        f"{total} tasks drawn, each twice the same and whole",
    )


def _undeclared(world: World, task: Task, again: Task) -> str:
    if task != again:
        return f"{task.id}: drawn twice, it came out different; a template may use nothing but draw.rng and draw's rows"
    offered = world.tools_of(task)
    if missing := [call.name for call in task.oracle if call.name not in offered]:
        return f"{task.id}: its oracle calls {missing[0]}, which the task does not offer"
    if unknown := [change.table for change in task.changes if change.table not in world.keys]:
        return f"{task.id}: expects a change in '{unknown[0]}', which is no table"
    if not task.prompt.strip():
        return f"{task.id}: has an empty prompt"
    return ""


def splits_disjoint(bench: Bench) -> CheckResult:
    """No prompt and no starting state stands in two splits, so held-out tasks are not merely remembered."""
    offenders = []
    for index, split in enumerate(SPLITS):
        for other in SPLITS[index + 1 :]:
            offenders += _shared(bench.tasks[split], bench.tasks[other], split, other)
    counts = ", ".join(f"{split} {len(tasks)}" for split, tasks in bench.tasks.items())
    return verdict(
        "splits_disjoint", offenders, f"no prompt and no starting state in two splits ({counts})"
    )


def _shared(tasks: list[Task], others: list[Task], split: str, other: str) -> Iterator[str]:
    prompts = {task.prompt: task.id for task in others}
    seeds = {task.seed: task.id for task in others}
    for task in tasks:
        if task.prompt in prompts:
            yield f"{task.id} ({split}) and {prompts[task.prompt]} ({other}) have the same prompt"
        elif task.seed in seeds:
            yield f"{task.id} ({split}) and {seeds[task.seed]} ({other}) start from the same state seed"


def no_solution_leakage(bench: Bench) -> CheckResult:
    """No value of the solution stands in what the model sees first, but for what the user's own request gives."""
    offenders = [
        f"{task.id}: the opening shows {value!r}, which its request does not give"
        for task in bench.all_tasks
        for value in _leaked(bench.world, task)
    ]
    return verdict(
        "no_solution_leakage",
        offenders,
        f"{len(bench.all_tasks)} openings show nothing of the solution",
    )


def _leaked(world: World, task: Task) -> list[str]:
    opening = "\n".join(
        message.content for message in world.opening(task) if message.content != task.prompt
    )
    choices = list(_choices(tool.parameters for tool in world.tools_of(task).values()))
    return [
        value
        for value in dict.fromkeys(_solution(task))
        if _stands_in(value, opening)
        and not _stands_in(value, task.prompt)
        and not any(same_value(value, str(choice)) for choice in choices)
    ]


def _solution(task: Task) -> Iterator[str]:
    """The values that decide: keys and cells of the expected changes, and the facts. Yes and no are no secret words."""
    yield from task.facts
    for change in task.changes:
        for value in (change.key, *change.values.values()):
            if value not in (None, "", ANY) and not isinstance(value, bool):
                yield str(value)


def _stands_in(value: str, text: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(value.casefold())}(?!\w)", text.casefold()) is not None


def _choices(schemas: Iterable[Any]) -> Iterator[Any]:
    """Every choice that a tool's schema lists: all of them stand in the opening, the right one among them."""
    for schema in schemas:
        if isinstance(schema, dict):
            yield from schema.get("enum", ())
            yield from _choices(schema.values())
        elif isinstance(schema, list):
            yield from _choices(schema)


def prompt_size(bench: Bench) -> CheckResult:
    """How long the openings are, by level. For information: it always passes."""
    longest: dict[str, int] = {}
    for task in bench.all_tasks:
        size = sum(len(message.content) for message in bench.world.opening(task))
        longest[task.level or "all"] = max(size, longest.get(task.level or "all", 0))
    words = [
        f"{level} {size} characters (about {size // CHARACTERS_A_TOKEN} tokens)"
        for level, size in sorted(longest.items())
    ]
    return CheckResult("prompt_size", True, "longest opening: " + ", ".join(words))
