"""Preflight checks of the environment: oracle reward, no-op reward, disjoint splits."""

from __future__ import annotations

from envgym.evaluation.checks.fixture import CheckResult, describe_episode
from envgym.playing import Request
from envgym.policies.noop import NoopPolicy
from envgym.tasks import Task
from envgym_trainer.preflight.context import SPLIT_TASKS, PreflightContext, preflight_result

FOREIGN = "a foreign environment, which reports no tasks and no solutions"


def oracle(subject: PreflightContext) -> CheckResult:
    """Check that the oracle solves its tasks, in the tokens and dialect of a warm start."""
    silent = [task.id for task in subject.tasks if not task.has_solution]
    if not subject.demos or (silent and subject.config.warm_start.episodes):
        return _without_oracle(subject, silent)
    problems = [
        describe_episode(episode)
        for episode in subject.demos
        if not episode.success or not (episode.reward or 0) > 0
    ]
    remedy = "To find the cause: envgym check " + str(subject.spec.path)
    return preflight_result(
        "oracle",
        problems,
        len(subject.demos),
        passed=f"solves all {len(subject.demos)} tasks tried",
        remedy=remedy,
    )


def _without_oracle(subject: PreflightContext, silent: list[str]) -> CheckResult:
    what = f"the tasks have no oracle (such as {silent[0]})" if silent else FOREIGN
    if subject.config.warm_start.episodes:
        return CheckResult(
            "oracle",
            False,
            f"{what}, but a warm start needs one. Set train.warm_start.episodes=0, or add oracles",
        )
    return CheckResult("oracle", True, what)


def noop(subject: PreflightContext) -> CheckResult:
    """Check that a no-op policy earns less than the oracle, so that idling is not learned."""
    if not subject.demos:
        return CheckResult("noop", True, "not checked, because no task has an oracle")
    ids = [episode.task_id for episode in subject.demos]
    idle = subject.play(NoopPolicy(), [Request(task, 0) for task in ids])
    pairs = zip(subject.demos, idle, strict=True)
    rows = [
        (solved, lazy)
        for solved, lazy in pairs
        if solved.reward is not None and lazy.reward is not None
    ]
    problems = [
        f"{lazy.task_id}: doing nothing earns {lazy.reward:g}, the oracle {solved.reward:g}"
        for solved, lazy in rows
        if lazy.reward >= solved.reward  # type: ignore[operator]
    ]
    remedy = "Reward the changes that a task asks for (reward: {solved: {from: state_match}})"
    return preflight_result(
        "noop",
        problems,
        len(rows),
        passed=f"doing nothing earns less on all {len(rows)} tasks",
        remedy=remedy,
    )


def splits(subject: PreflightContext) -> CheckResult:
    """Check that no held-out task has the prompt and the solution of a training task."""
    if not subject.has_own_tasks:
        return CheckResult(
            "splits", True, "a foreign environment: train, val and test have different seeds"
        )
    count = SPLIT_TASKS[subject.is_full]
    tasks = subject.tasks_of("train", count)
    train = {_same(task): task.id for task in tasks}
    prompts = {prompt for prompt, _ in train}
    held_out = [task for split in ("val", "test") for task in subject.tasks_of(split, count)]
    problems = [
        f"{task.id} is {train[_same(task)]} again" for task in held_out if _same(task) in train
    ]
    remedy = (
        "Draw names and values from draw.rng or draw.row, and phrases with draw.wording. "
        "Otherwise held-out success measures memory"
    )
    passed = f"{len(tasks)} training and {len(held_out)} held-out tasks, all different"
    result = preflight_result("splits", problems, len(held_out), passed=passed, remedy=remedy)
    if problems or not (shared := sum(task.prompt in prompts for task in held_out)):
        return result
    detail = (
        f"{shared} of {len(held_out)} held-out prompts are also trained on, with another "
        "solution, so they test no new wording"
    )
    return CheckResult("splits", True, detail, warning=True)


def _same(task: Task) -> tuple[str, str]:
    """Return a key for equality of tasks: prompt and solution."""
    return task.prompt, repr((task.oracle, task.final, task.changes, task.facts))
