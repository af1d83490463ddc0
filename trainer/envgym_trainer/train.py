"""The whole training run, told in order: base evaluation, warm start, GRPO, final evaluation, adapter.

Each step plays groups of episodes from identical states, compares the siblings, and makes one update. Everything random is a
function of (seed, step) and of what the checkpoint holds, so a resumed run goes on exactly where it stopped.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from envgym.episode import Episode
from envgym.errors import TooManyFailures, UsageError
from envgym.evaluate import trained_templates
from envgym.play import Request
from envgym.registration import make_world
from envgym.report import Outcome
from envgym.spec import EnvSpec
from envgym.tasks import stable_seed
from envgym_trainer import best, checkpoint
from envgym_trainer.attention import why_unknown
from envgym_trainer.breakdown import explained, part_metrics
from envgym_trainer.card import CardFacts, model_card
from envgym_trainer.chat import Chat
from envgym_trainer.checkpoint import Progress, Stateful
from envgym_trainer.config import TrainConfig
from envgym_trainer.config.evaluation import BASE, TRAINED, WARM
from envgym_trainer.controllers import Controls
from envgym_trainer.dialogue import Sampler
from envgym_trainer.display import Display
from envgym_trainer.engine import Engine
from envgym_trainer.export import save_adapter
from envgym_trainer.facts import versions
from envgym_trainer.groups import Played
from envgym_trainer.hack_watch import RunSignals
from envgym_trainer.interrupt import Interrupt, StopAsked
from envgym_trainer.learner import Learner
from envgym_trainer.lessons import demonstration, lessons_of
from envgym_trainer.lockstep import exact_kernels
from envgym_trainer.lora import attach
from envgym_trainer.metrics import eval_metrics, failure_metrics, sandbox_metrics
from envgym_trainer.models import ResolvedModel, load_model, pick_device, resolve
from envgym_trainer.monitor import Monitor
from envgym_trainer.native import one_heap
from envgym_trainer.offpolicy import MismatchWatch, SamplerMismatch, inner_updates
from envgym_trainer.policies.demo import DemoPolicy
from envgym_trainer.resume import restore
from envgym_trainer.reward_layer import RewardLayer
from envgym_trainer.rollouts import Rollouts
from envgym_trainer.runs import RunFolder
from envgym_trainer.self_training import SelfTraining
from envgym_trainer.served import ServedEngine
from envgym_trainer.task_sampler import Draws, TaskSampler
from envgym_trainer.timing import speed, time_split

log = logging.getLogger(__name__)


class Trainer:
    """One run: owns the world, the model, the sampler and the learner, and closes them.

    Args:
        spec: the environment.
        config: its `train:` block, resolved for this device.
        folder: where everything is written.
        monitor, display: where numbers go.
    """

    def __init__(
        self,
        spec: EnvSpec,
        config: TrainConfig,
        folder: RunFolder,
        monitor: Monitor,
        display: Display,
    ):
        self.spec = spec
        self.config = config
        self.folder = folder
        self.monitor = monitor
        self.display = display
        torch.manual_seed(config.seed)
        one_heap()
        self.progress = Progress()
        rates = {
            "learning_rate": config.optimizer.learning_rate,
            "kl_coef": config.algorithm.kl.coef,
            "entropy_coef": config.algorithm.entropy_coef,
        }
        self.controls = Controls(config.controllers, max_kl=config.optimizer.max_kl, **rates)
        self.stop = Interrupt()
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
        self.learner = self._learner(
            config.warm_start.learning_rate
            if config.warm_start.episodes
            else config.optimizer.learning_rate
        )
        precision = (
            torch.bfloat16 if config.engine.name == "vllm_server" else model.dtype
        )  # a server rounds in a way of its own
        self.watch = MismatchWatch(
            dtype=precision, on_mismatch=config.checks.on_mismatch, say=display.note
        )
        self.world = make_world(spec)
        wanted = config.plan
        self.labels = SelfTraining(spec, config, wanted, self.world, self.model) if wanted else None
        self.rewards = RewardLayer(
            self.world, config.reward_weights, folder.find_episodes, display.note, self.labels
        )
        self.signals = RunSignals(
            self.world, folder, is_on=config.checks.hacking_signals, say=display.note
        )
        self.rollouts = Rollouts(
            spec, config, self.world, self.engine, self.rewards, folder, monitor, self.labels
        )
        self.warmup_steps = math.ceil(
            config.warm_start.episodes / config.warm_start.episodes_per_step
        )
        self.total_steps = self.warmup_steps + config.steps

    @cached_property
    def sampler(self) -> TaskSampler:
        """Which tasks each step plays. Raises SpecError, once the trainer is there to be closed."""
        return TaskSampler(self.spec, self.config, self.world.tasks, self.labels)

    @cached_property
    def parts(self) -> dict[str, Stateful]:
        """Whatever else a checkpoint must hold."""
        parts: dict[str, Stateful] = {
            "controllers": self.controls,
            "sampler": self.sampler,
            "rewards": self.rewards,
        }
        parts |= {"self_training": self.labels} if self.labels else {}
        return parts | {"signals": self.signals}

    def run(self) -> dict[str, Outcome]:
        """Everything from the start, or from where a checkpoint left off. Returns the evaluations by name.

        Raises: KeyboardInterrupt, TooManyFailures, SamplerMismatch; all that was learned is saved before.
        """
        _ = self.parts  # a curriculum that could never act is refused before anything is played
        with self.stop, exact_kernels(self.config.rollout.deterministic):
            try:
                self._story()
            except (StopAsked, TooManyFailures, SamplerMismatch):  # all come between two updates
                self.rollouts.write_lost()
                self.save()
                raise
            except UsageError:  # such as a judge that refuses the key
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
        if self.config.steps or not self.warmup_steps:  # else the warm start is what was trained
            self.evaluate(TRAINED)

    def warm_up(self) -> None:
        """Supervised steps on the oracle's episodes, each on fresh tasks of the train split."""
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
            metrics = self.learner.sft_step(
                [sample for demo in demos if (sample := demonstration(demo))]
            )
            self._report(
                step,
                "warmup",
                metrics
                | failure_metrics([demos])
                | speed(demos, start)
                | sandbox_metrics(self.world),
            )
        if self.progress.step == self.warmup_steps > 0:
            self.save()

    def grpo(self) -> None:
        """Policy-gradient steps on groups of episodes."""
        config = self.config
        if self.progress.step == self.warmup_steps:
            self.learner = self._learner(
                config.optimizer.learning_rate
            )  # another objective: the moments start anew
        self.controls.attach(self.learner)
        self._validate()  # of the step after which the run was stopped, if it is still due
        for step in range(self.progress.step + 1, self.total_steps + 1):
            self.stop.check()
            start = time.perf_counter()
            played = self.sample(step)
            done = step - self.warmup_steps
            sampled = time.perf_counter()
            metrics = played.metrics() | self.sampler.metrics(done) | self.rewards.metrics()
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
                | sandbox_metrics(self.world)
            )
            played.write(self.folder, step)
            self.monitor.transcripts(step, played.episodes)
            self._report(step, "grpo", metrics)
            self._validate()
            if self._is_saved(step):
                self.save()

    def sample(self, step: int) -> Played:
        """The step's groups: those that were played ahead, or fresh ones from the adapter as it is now."""
        if (played := self.rollouts.take()) is None:
            self.engine.refresh(self.model)
            played = self.rollouts.groups(*self._drawn(step), sampled_at=self.learner.updates)
        if not self._goes_ahead(step):
            self.engine.sleep()  # the learner needs the memory
        return played

    def learn(
        self, groups: list[list[Episode]], *, sampled_at: int | None = None
    ) -> dict[str, float]:
        """`updates_per_step` updates, each on its own share of the groups, `epochs_per_step` times over.

        Args:
            sampled_at: the learner's updates when the sampler took over what it played with; by default as many as now.
        """
        lessons = [
            self.learner.scored(group) for group in lessons_of(groups, self.config.algorithm)
        ]
        shares = [
            lessons[n :: self.config.optimizer.updates_per_step]
            for n in range(min(self.config.optimizer.updates_per_step, len(lessons)))
        ]
        samples = [[sample for group in share for sample in group] for share in shares]
        epochs = self.config.optimizer.epochs_per_step
        metrics = inner_updates(
            self.learner, samples, epochs=epochs, watch=self.watch, sampled_at=sampled_at
        )
        return metrics | self.controls.update(
            self.learner, metrics, [sample for share in samples for sample in share]
        )

    def evaluate(self, name: str, *, tasks: int | None = None) -> None:
        """Held-out success of the adapter as it is now, once; kept in the checkpoint and on the TensorBoard axis."""
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
        numbers = eval_metrics(episodes) | sandbox_metrics(self.world, prefix="eval/")
        self.monitor.log(self.progress.step, numbers, phase="eval")
        self.progress.evaluations[name], self.progress.written = (
            outcome.to_dict(),
            self.folder.written(),
        )
        self.display.note(f"{name}: {outcome.line()}")
        self.save()

    def export(self, outcomes: dict[str, Outcome]) -> None:
        """Writes `adapter/`: what PEFT and vLLM load, with a model card that holds the table; nothing with `lora.export: none`."""
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
            " (a 4-bit GGUF made float again: the published weights differ a little)"
            if base.is_quantized
            else ""
        )
        recipe = best.recipe(self.progress, config)
        recipe |= {
            "warm start": f"{config.warm_start.episodes} oracle episodes, learning rate {config.warm_start.learning_rate:g}"
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
            besides=[int(self.progress.best["step"])] if self.progress.best else (),
        )

    def resume(self) -> None:
        """Goes on from the run's last whole checkpoint; see `resume.restore`."""
        self.learner, self.progress = restore(
            self.folder, self._learner_at, self.parts, say=self.display.note
        )
        if (
            self.progress.step < self.total_steps
        ):  # the run was finished with fewer steps, and now goes further
            self.progress.evaluations.pop(TRAINED, None)

    def close(self) -> None:
        self.engine.close()
        self.rollouts.close()
        self.world.close()

    def _drawn(self, step: int) -> tuple[int, Draws]:
        return step, self.sampler.draws(step, done=step - self.warmup_steps)

    def _is_saved(self, step: int) -> bool:
        done = step - self.warmup_steps
        every = self.config.output.checkpoint_every_steps
        return step == self.total_steps or bool(every and done % every == 0)

    def _goes_ahead(self, step: int) -> bool:
        """Whether the next step is played while this one is learned from: not past a checkpoint, from which a resumed run plays
        afresh, and not while the sampler is needed for a validation."""
        done = step - self.warmup_steps
        every = self.config.evaluation.validate_every_steps
        return (
            self.config.rollout.one_step_ahead
            and not self._is_saved(step)
            and not (every and done % every == 0)
        )

    def _sampler(self) -> Sampler:
        config = self.config
        if config.engine.name == "vllm_server":
            assert config.engine.url is not None  # the schema requires it
            adapters = Path(config.engine.adapter_folder or self.folder.path / "served")
            return ServedEngine(
                config.engine.url,
                self.chat,
                model=config.engine.model,
                adapters=adapters,
                max_context=config.rollout.max_context_tokens,
            )
        return Engine(
            self.model,
            self.chat,
            max_context=config.rollout.max_context_tokens,
            max_batch=config.rollout.max_concurrent_episodes,
            deterministic=config.rollout.deterministic,
            say=self.display.note,
        )

    def _learner_at(self, step: int) -> Learner:
        warming_up = self.config.warm_start.episodes and step <= self.warmup_steps
        return self._learner(
            self.config.warm_start.learning_rate
            if warming_up
            else self.config.optimizer.learning_rate
        )

    def _adapter_of(self, name: str) -> AbstractContextManager[None]:
        if name != TRAINED or self.config.output.adapter != "best":
            return nullcontext()
        return best.best_adapter(self.folder, self.progress, self.learner, self.display)

    def _learner(self, learning_rate: float) -> Learner:
        config = self.config
        return Learner(
            self.model,
            learning_rate=learning_rate,
            max_grad_norm=config.optimizer.max_grad_norm,
            temperature=config.rollout.temperature,
            clip_low=config.algorithm.loss.clip_low,
            clip_high=config.algorithm.loss.clip_high,
            kl_coef=config.algorithm.kl.coef,
            weight_decay=config.optimizer.weight_decay,
            warmup_steps=config.optimizer.warmup_updates,
            entropy_coef=config.algorithm.entropy_coef,
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
        """Success on validation tasks after this step, once, where it is due; the best so far is kept."""
        if not best.is_due(
            self.progress, self.config, warmup_steps=self.warmup_steps, total_steps=self.total_steps
        ):
            return
        tasks = self.world.tasks.ids(
            "val", levels=self.config.tasks.levels, count=self.config.evaluation.validation_tasks
        )
        episodes = self._held_out(tasks, "validation")
        numbers = eval_metrics(episodes, prefix="val/") | sandbox_metrics(self.world, prefix="val/")
        self.monitor.log(self.progress.step, numbers, phase="eval")
        self.signals.validated(numbers)
        for line in self.sampler.validated(episodes):
            self.display.note(line)
        if best.note(
            self.progress,
            numbers.get("val/success"),
            tasks=len(tasks),
            written=self.folder.written(),
        ):
            self.save()

    def _report(self, step: int, phase: Any, metrics: dict[str, float]) -> None:
        self.progress.step = step
        self.monitor.log(step, metrics, phase=phase)
        self.progress.written = self.folder.written()
        self.display.update(phase, step if phase == "warmup" else step - self.warmup_steps, metrics)
