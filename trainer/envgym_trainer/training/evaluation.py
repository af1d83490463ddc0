"""Evaluations on held-out tasks: the final table, and validations that choose the best adapter."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

from envgym.episode import Episode
from envgym.evaluation.evaluate import trained_templates
from envgym.evaluation.report import Outcome
from envgym.playing import Request
from envgym.tasks import stable_seed
from envgym_trainer.config.evaluation import TRAINED
from envgym_trainer.run.metrics import drain_sandbox_metrics, eval_metrics
from envgym_trainer.training import best
from envgym_trainer.training.build import TrainingRun


def evaluate(run: TrainingRun, name: str, *, tasks: int | None = None) -> None:
    """Evaluate the current adapter, log the result and save a checkpoint.

    Nothing is done if the run already has an evaluation of this name.

    Args:
        run: Training run.
        name: Name of the evaluation, such as `trained`.
        tasks: Number of held-out tasks. Default: `evaluation.tasks`.
    """
    progress = run.progress
    if name in progress.evaluations:
        return
    options = run.config.evaluation
    ids = run.world.tasks.ids(
        options.split,
        levels=run.config.tasks.levels,
        count=options.tasks if tasks is None else tasks,
    )
    with adapter_of(run, name):
        episodes = play_held_out(run, ids, name)
    outcome = Outcome.of(name, episodes, trained=trained_templates(run.world.tasks))
    run.folder.append_episodes(progress.step, episodes, phase="eval")
    numbers = eval_metrics(episodes) | drain_sandbox_metrics(run.world, prefix="eval/")
    run.logger.log(progress.step, numbers, phase="eval")
    progress.evaluations[name] = outcome.to_dict()
    progress.file_sizes = run.folder.file_sizes()
    run.display.note(f"{name}: {outcome.summary()}")
    run.save()


def validate(run: TrainingRun) -> None:
    """Validate the current adapter if this step is due. Save it if it is the best so far."""
    step = run.progress.step
    if not run.schedule.is_validation_step(step) or step <= run.progress.last_validated_step:
        return
    tasks = run.world.tasks.ids(
        "val", levels=run.config.tasks.levels, count=run.config.evaluation.validation_tasks
    )
    episodes = play_held_out(run, tasks, "validation")
    numbers = eval_metrics(episodes, prefix="val/") | drain_sandbox_metrics(
        run.world, prefix="val/"
    )
    run.logger.log(step, numbers, phase="eval")
    # The base model and the warm start are candidates only; curricula follow the GRPO steps.
    if step > run.schedule.warmup_steps:
        run.hacking_monitor.validated(numbers)
        for line in run.task_sampler.validated(episodes):
            run.display.note(line)
    is_best = best.record_validation(
        run.progress,
        numbers.get("val/success"),
        tasks=len(tasks),
        file_sizes=run.folder.file_sizes(),
    )
    if is_best:
        run.save()


def adapter_of(run: TrainingRun, name: str) -> AbstractContextManager[None]:
    """Return a context with the adapter of an evaluation.

    It is the current adapter, except for the final evaluation if `output.adapter` is `best`.
    """
    if name != TRAINED or run.config.output.adapter != "best":
        return nullcontext()
    return best.best_adapter(run.folder, run.progress, run.learner, run.display)


def play_held_out(run: TrainingRun, tasks: Sequence[str], name: str) -> list[Episode]:
    """Play one episode per task at the evaluation temperature and show the progress."""
    config = run.config
    run.engine.load_adapter(run.model)
    policy = run.engine.policy(
        temperature=config.evaluation.temperature, max_new_tokens=config.rollout.max_turn_tokens
    )
    done: list[Episode] = []

    def show(episode: Episode) -> None:
        done.append(episode)
        run.stop.check()
        if len(done) % max(1, len(tasks) // 10) == 0:
            solved = sum(bool(each.success) for each in done)
            run.display.update(f"eval: {name}", len(done), {"success": solved / len(done)})

    run.display.plan[f"eval: {name}"] = len(tasks)
    requests = [Request(task, stable_seed(config.seed, task)) for task in tasks]
    episodes = run.collector.play(
        policy, requests, step=run.progress.step, phase="eval", on_episode=show
    )
    return [dataclasses.replace(episode, policy=name) for episode in episodes]
