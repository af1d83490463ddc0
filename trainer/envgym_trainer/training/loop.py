"""Training loop: base evaluation, warm start, GRPO and final evaluation.

Each GRPO step plays groups of episodes from identical initial states, computes group-relative
advantages and updates the adapter. All randomness is a function of (seed, step) and of the
checkpoint, so a resumed run continues bit by bit.
"""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial

from envgym.evaluation.report import Outcome
from envgym_trainer.algorithms.attribution import explained, part_metrics
from envgym_trainer.algorithms.credit import demonstration
from envgym_trainer.config.evaluation import BASE, TRAINED, WARM
from envgym_trainer.inference.policies.demonstration import DemoPolicy
from envgym_trainer.rollout.lockstep import exact_kernels
from envgym_trainer.rollout.rollout_batch import RolloutBatch
from envgym_trainer.rollout.task_sampler import TaskDraw
from envgym_trainer.run.metrics import Metrics, drain_sandbox_metrics, failure_metrics
from envgym_trainer.run.timing import speed, time_split
from envgym_trainer.training import best
from envgym_trainer.training.build import TrainingRun
from envgym_trainer.training.evaluation import evaluate, validate
from envgym_trainer.training.update import update_policy


class Trainer(TrainingRun):
    """One training run. See `TrainingRun` for the arguments."""

    def run(self) -> dict[str, Outcome]:
        """Run all phases, from the start or from the restored checkpoint.

        All progress is saved before an exception of the list below is raised.

        Returns:
            Evaluations by name.

        Raises:
            KeyboardInterrupt: If the user stops the run.
            TooManyFailures: If too many episodes are void.
            SamplerMismatch: If sampler and trainer disagree and `on_mismatch` is `stop`.
        """
        base_tasks = self.config.evaluation.base_tasks
        with self.stop, exact_kernels(self.config.rollout.deterministic), self.saving_on_stop():
            if base_tasks != 0:
                evaluate(self, BASE, tasks=base_tasks)
            if self.progress.step == 0:
                validate(self)
            self.warm_up()
            if self.schedule.warmup_steps:
                evaluate(self, WARM)
            self.grpo()
            if line := best.announce(self.progress, self.config):
                self.display.note(line)
            # Without GRPO steps, the evaluation of the warm start is the final one.
            if self.config.steps or not self.schedule.warmup_steps:
                evaluate(self, TRAINED)
        return {name: Outcome.from_dict(plain) for name, plain in self.progress.evaluations.items()}

    def warm_up(self) -> None:
        """Train on oracle episodes. Each step uses new tasks of the train split."""
        options = self.config.warm_start
        settings = replace(self.settings, learning_rate=options.learning_rate)
        policy = DemoPolicy(self.chat, self.spec.prompt.dialects[0])
        for step in range(self.progress.step + 1, self.schedule.warmup_steps + 1):
            self.stop.check()
            start = time.perf_counter()
            left = options.episodes - (step - 1) * options.episodes_per_step
            requests = self.task_sampler.draws(step).requests(
                min(options.episodes_per_step, left), 1
            )
            demos = self.collector.play(policy, requests, step=step, phase="warmup")
            samples = [sample for demo in demos if (sample := demonstration(demo))]
            metrics = self.learner.supervised_update(samples, settings) | failure_metrics([demos])
            self.report(
                step, "warmup", metrics | speed(demos, start) | drain_sandbox_metrics(self.world)
            )
        if self.progress.step == self.schedule.warmup_steps > 0:
            self.save()

    def grpo(self) -> None:
        """Train with policy gradients on groups of episodes."""
        if self.progress.step == self.schedule.warmup_steps:
            # The objective changes, so the optimizer state starts from zero.
            self.learner = self.new_learner()
        # The run may have stopped after a step and before its validation.
        validate(self)
        for step in range(self.progress.step + 1, self.schedule.total_steps + 1):
            self.stop.check()
            self.report(step, "grpo", self.grpo_step(step))
            validate(self)
            if self.schedule.is_checkpoint_step(step):
                self.save()

    def grpo_step(self, step: int) -> Metrics:
        """Collect the groups of one step, update the adapter and return the step's metrics."""
        start = time.perf_counter()
        batch = self.collect_rollouts(step)
        sampled = time.perf_counter()
        metrics = batch.metrics() | self.task_sampler.metrics(step - self.schedule.warmup_steps)
        metrics |= self.scorer.drain_metrics(batch.part_values)
        self.task_sampler.observe(batch.all_groups)
        self.scorer.observe(batch.all_groups, batch.part_values)
        if self.schedule.should_prefetch(step):
            self.engine.load_adapter(self.model)
            self.collector.prefetch(
                step + 1, self._draw_tasks(step + 1), sampled_at=self.learner.updates
            )
        metrics |= update_policy(self, batch.trainable_groups, sampled_at=batch.sampled_at)
        metrics |= self.hacking_monitor.observe(step, batch.all_groups, metrics)
        batch = batch.with_attribution(partial(explained, algorithm=self.config.algorithm))
        metrics |= part_metrics(batch.groups) | speed(batch.episodes, start)
        metrics |= time_split(batch.episodes, start, sampled) | drain_sandbox_metrics(self.world)
        batch.write(self.folder, step)
        self.logger.transcripts(step, batch.episodes)
        return metrics

    def collect_rollouts(self, step: int) -> RolloutBatch:
        """Return prefetched groups, or groups sampled with the current adapter."""
        batch = self.collector.take_prefetched()
        if batch is None:
            self.engine.load_adapter(self.model)
            batch = self.collector.collect(
                step, self._draw_tasks(step), sampled_at=self.learner.updates
            )
        if not self.schedule.should_prefetch(step):
            self.engine.sleep()  # The learner uses the engine's memory.
        return batch

    def _draw_tasks(self, step: int) -> TaskDraw:
        return self.task_sampler.draws(step, done=step - self.schedule.warmup_steps)
