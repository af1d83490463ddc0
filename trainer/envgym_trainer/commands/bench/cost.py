"""Measure the cost of a run on this machine (`envgym bench`) and recommend settings.

An untrained model's episodes are not representative, so episodes follow the oracle: each turn
samples as many tokens as the oracle's answer has, and the environment gets that answer. Without an
oracle each turn has `max_new_tokens`. All groups are trained; in a run, groups without reward
variance are skipped. See `benchmarks/step_vs_trl.py` for other trainers.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from envgym.episode import Episode
from envgym.errors import UsageError
from envgym.messages import Message
from envgym.playing import Request, play_many
from envgym.policies import Completion, TokenTrace
from envgym.spec.environment import EnvSpec
from envgym.tasks import Task, stable_seed
from envgym.text import terminal, to_json
from envgym_trainer.algorithms.credit import demonstration
from envgym_trainer.batch import Sample
from envgym_trainer.commands.bench.report import CostReport, StepCost, advice, to_table
from envgym_trainer.config import TrainConfig
from envgym_trainer.inference import EngineDialogue, EnginePolicy
from envgym_trainer.inference.policies.demonstration import DemoDialogue, DemoPolicy
from envgym_trainer.run.display import Display
from envgym_trainer.run.folder import RunFolder
from envgym_trainer.run.logger import RunLogger
from envgym_trainer.training.launch import resolve
from envgym_trainer.training.loop import Trainer

EVAL_EPISODES = 32
"""Maximum number of held-out episodes."""


class Paced:
    """Policy that samples as many tokens as the oracle's answer has, and acts as the oracle."""

    def __init__(self, policy: EnginePolicy, demo: DemoPolicy):
        self.policy = policy
        self.demo = demo

    def open(
        self,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]],
        *,
        seed: int,
        task: Task | None = None,
    ) -> PacedDialogue | EngineDialogue:
        inner = self.policy.open(messages, tools, seed=seed)
        if task is None or not task.has_solution:
            return inner
        return PacedDialogue(inner, self.demo.open(messages, tools, seed=seed, task=task))


class PacedDialogue:
    def __init__(self, inner: EngineDialogue, script: DemoDialogue):
        self.inner = inner
        self.script = script

    def reply(self) -> Completion:
        wanted = self.script.reply()
        sampled = self.inner.reply(max_new_tokens=len(wanted.token_ids))
        return Completion(wanted.text, sampled.token_ids, sampled.logprobs)

    def observe(self, messages: Sequence[Message]) -> None:
        self.inner.observe(messages)
        self.script.observe(messages)

    def trace(self) -> TokenTrace | None:
        return self.inner.trace()

    def close(self) -> None:
        self.inner.close()


def bench(spec: EnvSpec, config: TrainConfig, *, steps: int, console: Console) -> CostReport:
    """Measure steps of a training run in a temporary folder.

    Raises:
        UsageError: If the trainer cannot be built or no episode can be played.
    """
    with tempfile.TemporaryDirectory() as place:
        folder = RunFolder.create(place, "bench")
        with RunLogger(folder) as monitor, Display({"step": steps}, console=console) as display:
            trainer = Trainer(spec, config, folder, monitor, display)
            try:
                return _measure(trainer, steps, console)
            finally:
                trainer.close()


def _measure(trainer: Trainer, steps: int, console: Console) -> CostReport:
    config = trainer.config
    costs = []
    for step in range(1, steps + 1):
        with console.status(f"step {step} of {steps}"):
            costs.append(_step(trainer, step))
    names = [each.name for each in dataclasses.fields(StepCost)]
    middle = StepCost(
        **{name: statistics.median(getattr(cost, name) for cost in costs) for name in names}
    )
    with console.status("a supervised step"):
        warmup = _warmup_step(trainer) if config.warm_start.episodes else 0.0
    with console.status("held-out tasks"):
        held_out = _eval_episode(trainer)
    seconds = {
        "warm start": trainer.schedule.warmup_steps * warmup,
        "steps": config.steps * (middle.sampling_seconds + middle.training_seconds),
        "evaluations": _evaluated_episodes(trainer) * held_out,
    }
    report = CostReport(middle, warmup, held_out, sum(seconds.values()), _peak_mb(trainer))
    return dataclasses.replace(
        report, advice=tuple(advice(config, report, evaluations=seconds["evaluations"]))
    )


def _evaluated_episodes(trainer: Trainer) -> int:
    """Return the number of episodes of all evaluations and validations of a run."""
    config = trainer.config
    options = config.evaluation
    ids = trainer.world.tasks.ids(options.split, levels=config.tasks.levels, count=options.tasks)
    base = len(ids) if options.base_tasks is None else options.base_tasks
    count = base + len(ids) * (2 if config.warm_start.episodes else 1)
    if options.validate_every_steps:
        count += options.validation_tasks * (config.steps // options.validate_every_steps)
        if config.output.adapter == "best":  # the base model and the warm start
            count += options.validation_tasks * (2 if config.warm_start.episodes else 1)
    return count


def _step(trainer: Trainer, step: int) -> StepCost:
    config = trainer.config
    engine = trainer.engine
    engine.load_adapter(trainer.model)
    before = engine.statistics
    started = time.perf_counter()
    requests = trainer.task_sampler.draws(step).requests(
        config.rollout.groups_per_step, config.rollout.group_size
    )
    episodes = _play(trainer, requests)
    sampled = time.perf_counter()
    after = engine.statistics
    traces = [trace for episode in episodes if (trace := episode.tokens) is not None]
    if not traces:
        raise UsageError(
            "no episode could be played, because all are void. To find the cause: envgym check, or "
            "envgym eval --policy oracle"
        )
    samples = [Sample.from_trace(trace, advantage=(-1.0) ** n) for n, trace in enumerate(traces)]
    shares = [
        samples[n :: config.optimizer.updates_per_step]
        for n in range(min(config.optimizer.updates_per_step, len(samples)))
    ]
    trained = sum(
        trainer.learner.update(share, trainer.settings).get("batch/forward_tokens", 0.0)
        for share in shares
    )
    ended = time.perf_counter()
    total = sum(len(trace.token_ids) for trace in traces)
    prompts = sum(trace.loss_mask.index(True) for trace in traces)
    actions = sum(sum(trace.loss_mask) for trace in traces)
    busy = after.seconds_busy - before.seconds_busy
    computed = after.computed_tokens - before.computed_tokens
    return StepCost(
        sampling_seconds=sampled - started,
        idle_share=max(1 - busy / (sampled - started), 0.0),  # a NaN stays
        training_seconds=ended - sampled,
        prompt_tokens=prompts / len(traces),
        sampled_tokens=actions / len(traces),
        other_tokens=(total - prompts - actions) / len(traces),
        computed_share=computed / total,
        trained_share=trained / total,
    )


def _play(trainer: Trainer, requests: Sequence[Request]) -> list[Episode]:
    config = trainer.config
    policy = trainer.engine.policy(
        temperature=config.rollout.temperature,
        max_new_tokens=config.rollout.max_turn_tokens,
        group_size=config.rollout.group_size,
        stop_ids=frozenset(),  # the oracle decides when a turn ends
    )
    paced = Paced(policy, DemoPolicy(trainer.chat, trainer.spec.prompt.dialects[0]))
    return play_many(
        trainer.world.env, paced, requests, workers=config.rollout.max_concurrent_episodes
    )


def _warmup_step(trainer: Trainer) -> float:
    """Return the seconds of one supervised step."""
    warmup = trainer.config.warm_start
    started = time.perf_counter()
    demo = DemoPolicy(trainer.chat, trainer.spec.prompt.dialects[0])
    requests = trainer.task_sampler.draws(0).requests(
        min(warmup.episodes_per_step, warmup.episodes), 1
    )
    episodes = play_many(
        trainer.world.env, demo, requests, workers=trainer.config.rollout.max_concurrent_episodes
    )
    trainer.learner.supervised_update(
        [sample for episode in episodes if (sample := demonstration(episode))], trainer.settings
    )
    return time.perf_counter() - started


def _eval_episode(trainer: Trainer) -> float:
    """Return the seconds of one held-out episode when many are played at once."""
    config = trainer.config
    tasks = trainer.world.tasks.ids(
        config.evaluation.split, levels=config.tasks.levels, count=config.evaluation.tasks
    )
    tasks = tasks[: min(EVAL_EPISODES, config.rollout.max_concurrent_episodes)]
    started = time.perf_counter()
    _play(trainer, [Request(task, stable_seed(config.seed, task)) for task in tasks])
    return (time.perf_counter() - started) / len(tasks)


def _peak_mb(trainer: Trainer) -> float:
    import torch

    device = trainer.model.get_input_embeddings().weight.device
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes / (2**20 if sys.platform == "darwin" else 2**10)


def run_command(arguments: argparse.Namespace) -> int:
    """Run `envgym bench`."""
    if arguments.steps < 1:
        raise UsageError(f"--steps must be at least 1, got {arguments.steps}")
    spec, config, profile = resolve(arguments.env, arguments.settings)
    console = terminal.Console(stderr=arguments.json)
    about = f" with {config.model.name} · profile {profile} · {os.cpu_count()} cores"
    console.print(terminal.heading(spec.id, about))
    report = bench(spec, config, steps=arguments.steps, console=console)
    if arguments.json:
        print(to_json(report))
        return 0
    console.print(to_table(report, config), highlight=False)
    for line in report.advice:
        console.print(f"advice: {line}", soft_wrap=True)
    return 0
