"""Training run: base evaluation, warm start, GRPO, final evaluation, adapter.

Each GRPO step plays groups of episodes from identical initial states, computes group-relative
advantages and updates the adapter. All randomness is a function of (seed, step) and of the
checkpoint, so a resumed run continues bit by bit.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from envgym.episode import Episode
from envgym.errors import TooManyFailures, UsageError
from envgym.evaluation.evaluate import trained_templates
from envgym.evaluation.report import Outcome
from envgym.playing import Request
from envgym.registration import make_world
from envgym.spec.environment import EnvSpec
from envgym.tasks import stable_seed
from envgym_trainer.algorithms.attribution import explained, part_metrics
from envgym_trainer.algorithms.credit import demonstration, samples_by_group
from envgym_trainer.config import TrainConfig
from envgym_trainer.config.evaluation import BASE, TRAINED, WARM
from envgym_trainer.inference.dialogue import Engine
from envgym_trainer.inference.in_process.attention import why_unknown
from envgym_trainer.inference.in_process.engine import InProcessEngine
from envgym_trainer.inference.in_process.native_threads import use_single_malloc_arena
from envgym_trainer.inference.policies.demonstration import DemoPolicy
from envgym_trainer.inference.vllm_server import VllmServerEngine
from envgym_trainer.learner.controllers import STEP_KL, Controllers
from envgym_trainer.learner.learner import Learner
from envgym_trainer.learner.off_policy import MismatchMonitor, SamplerMismatch, inner_updates
from envgym_trainer.learner.update_settings import UpdateSettings
from envgym_trainer.model.adapter_files import save_adapter
from envgym_trainer.model.chat import Chat
from envgym_trainer.model.load import ResolvedModel, load_model, pick_device, resolve
from envgym_trainer.model.lora import attach
from envgym_trainer.rollout.collector import RolloutCollector
from envgym_trainer.rollout.group_scorer import GroupScorer
from envgym_trainer.rollout.groups import RolloutBatch
from envgym_trainer.rollout.lockstep import exact_kernels
from envgym_trainer.rollout.plans.self_training import SelfTraining
from envgym_trainer.rollout.task_sampler import TaskDraw, TaskSampler
from envgym_trainer.run.display import Display
from envgym_trainer.run.folder import RunFolder
from envgym_trainer.run.hacking_monitor import HackingMonitor
from envgym_trainer.run.logger import RunLogger
from envgym_trainer.run.metrics import drain_sandbox_metrics, eval_metrics, failure_metrics
from envgym_trainer.run.model_card import CardFacts, model_card
from envgym_trainer.run.provenance import versions
from envgym_trainer.run.timing import speed, time_split
from envgym_trainer.training import best, checkpoint
from envgym_trainer.training.checkpoint import Progress, Stateful
from envgym_trainer.training.interrupt import GracefulStop, StopRequested
from envgym_trainer.training.resume import restore

log = logging.getLogger(__name__)


class Trainer:
    """One training run. Owns the world, the model, the engine and the learner, and closes them.

    Args:
        spec: Environment specification.
        config: The `train:` block, resolved for this device.
        folder: Run folder. All files are written there.
        monitor: Receives the metrics.
        display: Shows the progress in the terminal.
    """

    def __init__(
        self,
        spec: EnvSpec,
        config: TrainConfig,
        folder: RunFolder,
        monitor: RunLogger,
        display: Display,
    ):
        self.spec = spec
        self.config = config
        self.folder = folder
        self.monitor = monitor
        self.display = display
        torch.manual_seed(config.seed)
        use_single_malloc_arena()
        self.progress = Progress()
        self.settings = UpdateSettings.from_config(config)
        self.controllers = Controllers(config.controllers, self.settings)
        self.settings = self.controllers.apply(self.settings)
        self.stop = GracefulStop()
        dtype = None if config.model.dtype == "auto" else getattr(torch, config.model.dtype)
        model, self.tokenizer = load_model(
            config.model.name,
            device=pick_device(config.model.device),
            dtype=dtype,
            say=display.note,
            quantize=config.model.quantize,
        )
        self.chat = Chat(self.tokenizer, model=model)
        self.model = attach(model, **config.lora.model_dump(), seed=config.seed)
        self.engine = self._sampler()
        self.learner = self._learner()
        # A server rounds differently, also if the local model is float32.
        precision = torch.bfloat16 if config.engine.name == "vllm_server" else model.dtype
        self.watch = MismatchMonitor(
            dtype=precision, on_mismatch=config.checks.on_mismatch, say=display.note
        )
        self.world = make_world(spec)
        wanted = config.plan
        self.labels = SelfTraining(spec, config, wanted, self.world, self.model) if wanted else None
        self.rewards = GroupScorer(
            self.world, config.reward_weights, folder.find_episodes, display.note, self.labels
        )
        self.signals = HackingMonitor(
            self.world, folder, is_on=config.checks.hacking_signals, say=display.note
        )
        self.rollouts = RolloutCollector(
            spec, config, self.world, self.engine, self.rewards, folder, monitor, self.labels
        )
        self.warmup_steps = math.ceil(
            config.warm_start.episodes / config.warm_start.episodes_per_step
        )
        self.total_steps = self.warmup_steps + config.steps

    @cached_property
    def sampler(self) -> TaskSampler:
        """Return the task sampler.

        It is created on first use, so that a SpecError is raised when the trainer can be closed.
        """
        return TaskSampler(self.spec, self.config, self.world.tasks, self.labels)

    @cached_property
    def parts(self) -> dict[str, Stateful]:
        """Return the objects besides the learner whose state a checkpoint stores."""
        parts: dict[str, Stateful] = {
            "controllers": self.controllers,
            "sampler": self.sampler,
            "rewards": self.rewards,
        }
        parts |= {"self_training": self.labels} if self.labels else {}
        return parts | {"signals": self.signals}

    def run(self) -> dict[str, Outcome]:
        """Run all phases, from the start or from the restored checkpoint.

        Returns:
            Evaluations by name.

        Raises:
            KeyboardInterrupt: If the user stops the run.
            TooManyFailures: If too many episodes are void.
            SamplerMismatch: If sampler and trainer disagree and `on_mismatch` is `stop`.
            All progress is saved before any of these is raised.
        """
        # Create the task sampler now, so that an invalid curriculum fails before any episode.
        _ = self.parts
        with self.stop, exact_kernels(self.config.rollout.deterministic):
            try:
                self._story()
            except (StopRequested, TooManyFailures, SamplerMismatch):
                # All three are raised between two updates, so the state is consistent.
                self.rollouts.write_lost()
                self.save()
                raise
            except UsageError:
                # Raised, for example, if an LLM judge rejects the API key.
                if self.progress.step:
                    self.save()
                raise
        return {name: Outcome.from_dict(plain) for name, plain in self.progress.evaluations.items()}

    def _story(self) -> None:
        if self.config.evaluation.base_tasks != 0:
            self.evaluate(BASE, tasks=self.config.evaluation.base_tasks)
        self.warm_up()
        if self.warmup_steps:
            self.evaluate(WARM)
        self.grpo()
        # Without GRPO steps, the evaluation of the warm start is the final one.
        if self.config.steps or not self.warmup_steps:
            self.evaluate(TRAINED)

    def warm_up(self) -> None:
        """Train on oracle episodes. Each step uses new tasks of the train split."""
        warmup = self.config.warm_start
        for step in range(self.progress.step + 1, self.warmup_steps + 1):
            self.stop.check()
            start = time.perf_counter()
            count = min(
                warmup.episodes_per_step, warmup.episodes - (step - 1) * warmup.episodes_per_step
            )
            policy = DemoPolicy(self.chat, self.spec.prompt.dialects[0])
            demos = self.rollouts.play(
                policy, self.sampler.draws(step).requests(count, 1), step=step, phase="warmup"
            )
            metrics = self.learner.supervised_update(
                [sample for demo in demos if (sample := demonstration(demo))],
                replace(self.settings, learning_rate=warmup.learning_rate),
            )
            self._report(
                step,
                "warmup",
                metrics
                | failure_metrics([demos])
                | speed(demos, start)
                | drain_sandbox_metrics(self.world),
            )
        if self.progress.step == self.warmup_steps > 0:
            self.save()

    def grpo(self) -> None:
        """Train with policy gradients on groups of episodes."""
        config = self.config
        if self.progress.step == self.warmup_steps:
            # The objective changes, so the optimizer state starts from zero.
            self.learner = self._learner()
        # The run may have stopped after a step and before its validation.
        self._validate()
        for step in range(self.progress.step + 1, self.total_steps + 1):
            self.stop.check()
            start = time.perf_counter()
            played = self.sample(step)
            done = step - self.warmup_steps
            sampled = time.perf_counter()
            metrics = played.metrics() | self.sampler.metrics(done) | self.rewards.drain_metrics()
            self.sampler.observe(played.everything)
            self.rewards.observe(played.everything)
            if self._goes_ahead(step):
                self.engine.refresh(self.model)
                self.rollouts.start(*self._drawn(step + 1), sampled_at=self.learner.updates)
            metrics |= self.learn(played.comparable, sampled_at=played.sampled_at)
            metrics |= self.signals.observe(step, played.everything, metrics)
            played = played.told(partial(explained, algorithm=config.algorithm))
            metrics |= part_metrics(played.groups)
            metrics |= (
                speed(played.episodes, start)
                | time_split(played.episodes, start, sampled)
                | drain_sandbox_metrics(self.world)
            )
            played.write(self.folder, step)
            self.monitor.transcripts(step, played.episodes)
            self._report(step, "grpo", metrics)
            self._validate()
            if self._is_saved(step):
                self.save()

    def sample(self, step: int) -> RolloutBatch:
        """Return prefetched groups, or groups sampled with the current adapter."""
        if (played := self.rollouts.take()) is None:
            self.engine.refresh(self.model)
            played = self.rollouts.groups(*self._drawn(step), sampled_at=self.learner.updates)
        if not self._goes_ahead(step):
            # Free the engine's memory for the learner.
            self.engine.sleep()
        return played

    def learn(
        self, groups: list[list[Episode]], *, sampled_at: int | None = None
    ) -> dict[str, float]:
        """Make `updates_per_step` updates on disjoint shares of the groups.

        The updates are repeated `epochs_per_step` times.

        Args:
            groups: Groups of the step.
            sampled_at: Number of updates when the sampler took over its adapter. Default:
                the current number.
        """
        lessons = [
            self.learner.with_trainer_logprobs(group, self.settings)
            for group in samples_by_group(groups, self.config.algorithm)
        ]
        shares = [
            lessons[n :: self.config.optimizer.updates_per_step]
            for n in range(min(self.config.optimizer.updates_per_step, len(lessons)))
        ]
        samples = [[sample for group in share for sample in group] for share in shares]
        epochs = self.config.optimizer.epochs_per_step
        metrics = inner_updates(
            self.learner,
            samples,
            self.settings,
            epochs=epochs,
            watch=self.watch,
            sampled_at=sampled_at,
        )
        # Without an update the policy did not change.
        if self.controllers.needs_step_kl and metrics.get("grad_norm"):
            trained = [sample for share in samples for sample in share]
            metrics[STEP_KL] = self.learner.step_kl(trained, self.settings)
        self.settings = self.controllers.next(
            self.settings, metrics, is_warming_up=self.learner.is_warming_up
        )
        return metrics | self.controllers.metrics()

    def evaluate(self, name: str, *, tasks: int | None = None) -> None:
        """Evaluate the current adapter on held-out tasks, once per name, and save a checkpoint."""
        if name in self.progress.evaluations:
            return
        count = self.config.evaluation.tasks if tasks is None else tasks
        with self._adapter_of(name):
            episodes = self._held_out(
                self.world.tasks.ids(
                    self.config.evaluation.split, levels=self.config.tasks.levels, count=count
                ),
                name,
            )
        outcome = Outcome.of(name, episodes, trained=trained_templates(self.world.tasks))
        self.folder.append_episodes(self.progress.step, episodes, phase="eval")
        numbers = eval_metrics(episodes) | drain_sandbox_metrics(self.world, prefix="eval/")
        self.monitor.log(self.progress.step, numbers, phase="eval")
        self.progress.evaluations[name] = outcome.to_dict()
        self.progress.file_sizes = self.folder.file_sizes()
        self.display.note(f"{name}: {outcome.summary()}")
        self.save()

    def export(self, outcomes: dict[str, Outcome]) -> None:
        """Write `adapter/` and its model card, unless `output.adapter` is `none`."""
        if self.config.output.adapter == "none":
            return
        base = resolve(self.config.model.name)
        card = model_card(self._card_facts(base, list(outcomes.values())))
        with self._adapter_of(TRAINED):
            self.folder.save_adapter(
                lambda folder: save_adapter(
                    self.model, self.tokenizer, self.chat, folder, base_id=base.public_id, card=card
                )
            )

    def _card_facts(self, base: ResolvedModel, outcomes: list[Outcome]) -> CardFacts:
        config = self.config
        spec = self.spec
        levels = f", levels {', '.join(config.tasks.levels)}" if config.tasks.levels else ""
        grpo = f"{config.steps} steps of {config.rollout.groups_per_step} tasks x {config.rollout.group_size} episodes"
        rounded = (
            " (converted from a 4-bit GGUF: the weights differ slightly from the published ones)"
            if base.is_quantized
            else ""
        )
        recipe = best.describe_adapter(self.progress, config)
        recipe |= {
            "warm start": f"{config.warm_start.episodes} oracle episodes, "
            f"learning rate {config.warm_start.learning_rate:g}"
        }
        return CardFacts(
            name=self.folder.path.name,
            base_model=base.public_id,
            env_id=spec.id,
            env_description=spec.description.strip(),
            outcomes=outcomes,
            eval_tasks=f"held-out tasks of split {config.evaluation.split}{levels}",
            reward=spec.reward,
            recipe=recipe
            | {
                "GRPO": f"{grpo}, learning rate {config.optimizer.learning_rate:g}",
                "base weights": base.source + rounded,
            },
            seed=config.seed,
            rank=config.lora.rank,
            alpha=config.lora.alpha,
            versions=versions(),
        )

    def save(self) -> None:
        self.folder.save_checkpoint(
            self.progress.step,
            lambda folder: checkpoint.save(folder, self.learner, self.progress, self.parts),
            keep=self.config.output.keep_checkpoints,
            also_keep=[int(self.progress.best["step"])] if self.progress.best else (),
        )

    def resume(self) -> None:
        """Restore the run's last complete checkpoint. See `resume.restore`."""
        self.learner, self.progress = restore(
            self.folder, lambda step: self._learner(), self.parts, say=self.display.note
        )
        self.settings = self.controllers.apply(self.settings)
        # A finished run was extended by more steps, so its final evaluation is outdated.
        if self.progress.step < self.total_steps:
            self.progress.evaluations.pop(TRAINED, None)

    def close(self) -> None:
        self.engine.close()
        self.rollouts.close()
        self.world.close()

    def _drawn(self, step: int) -> tuple[int, TaskDraw]:
        return step, self.sampler.draws(step, done=step - self.warmup_steps)

    def _is_saved(self, step: int) -> bool:
        done = step - self.warmup_steps
        every = self.config.output.checkpoint_every_steps
        return step == self.total_steps or bool(every and done % every == 0)

    def _goes_ahead(self, step: int) -> bool:
        """Return whether to prefetch the next step's episodes during this update.

        Not before a checkpoint, because a resumed run samples again, and not before a validation,
        which needs the engine.
        """
        done = step - self.warmup_steps
        every = self.config.evaluation.validate_every_steps
        return (
            self.config.rollout.one_step_ahead
            and not self._is_saved(step)
            and not (every and done % every == 0)
        )

    def _sampler(self) -> Engine:
        config = self.config
        if config.engine.name == "vllm_server":
            assert config.engine.url is not None  # the schema requires it
            adapters = Path(config.engine.adapter_folder or self.folder.path / "served")
            return VllmServerEngine(
                config.engine.url,
                self.chat,
                model=config.engine.model,
                adapters=adapters,
                max_context=config.rollout.max_context_tokens,
            )
        return InProcessEngine(
            self.model,
            self.chat,
            max_context=config.rollout.max_context_tokens,
            max_batch=config.rollout.max_concurrent_episodes,
            deterministic=config.rollout.deterministic,
            say=self.display.note,
        )

    def _adapter_of(self, name: str) -> AbstractContextManager[None]:
        if name != TRAINED or self.config.output.adapter != "best":
            return nullcontext()
        return best.best_adapter(self.folder, self.progress, self.learner, self.display)

    def _learner(self) -> Learner:
        config = self.config
        return Learner(
            self.model,
            max_grad_norm=config.optimizer.max_grad_norm,
            weight_decay=config.optimizer.weight_decay,
            warmup_steps=config.optimizer.warmup_updates,
            max_tokens_per_micro_batch=config.optimizer.micro_batch_tokens,
            algorithm=config.algorithm,
            constant_length=config.rollout.max_turn_tokens,
            layout="flat"
            if why_unknown(self.model.get_base_model().config, config.rollout.max_context_tokens)
            else "tree",
        )

    def _held_out(self, tasks: Sequence[str], name: str) -> list[Episode]:
        config = self.config
        self.engine.refresh(self.model)
        policy = self.engine.policy(
            temperature=config.evaluation.temperature, max_new_tokens=config.rollout.max_turn_tokens
        )
        done: list[Episode] = []

        def show(episode: Episode) -> None:
            done.append(episode)
            self.stop.check()
            if len(done) % max(1, len(tasks) // 10) == 0:
                self.display.update(
                    f"eval: {name}",
                    len(done),
                    {"success": sum(bool(e.success) for e in done) / len(done)},
                )

        self.display.plan[f"eval: {name}"] = len(tasks)
        requests = [Request(task, stable_seed(config.seed, task)) for task in tasks]
        return self.rollouts.play(
            policy, requests, step=self.progress.step, phase="eval", on_episode=show
        )

    def _validate(self) -> None:
        """Evaluate on validation tasks if this step is due, and record the best adapter so far."""
        if not best.is_due(
            self.progress, self.config, warmup_steps=self.warmup_steps, total_steps=self.total_steps
        ):
            return
        tasks = self.world.tasks.ids(
            "val", levels=self.config.tasks.levels, count=self.config.evaluation.validation_tasks
        )
        episodes = self._held_out(tasks, "validation")
        numbers = eval_metrics(episodes, prefix="val/") | drain_sandbox_metrics(
            self.world, prefix="val/"
        )
        self.monitor.log(self.progress.step, numbers, phase="eval")
        self.signals.validated(numbers)
        for line in self.sampler.validated(episodes):
            self.display.note(line)
        if best.record_validation(
            self.progress,
            numbers.get("val/success"),
            tasks=len(tasks),
            file_sizes=self.folder.file_sizes(),
        ):
            self.save()

    def _report(self, step: int, phase: Any, metrics: dict[str, float]) -> None:
        self.progress.step = step
        self.monitor.log(step, metrics, phase=phase)
        self.progress.file_sizes = self.folder.file_sizes()
        self.display.update(phase, step if phase == "warmup" else step - self.warmup_steps, metrics)
