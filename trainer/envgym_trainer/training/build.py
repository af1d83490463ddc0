"""Build all objects of a training run from its configuration.

See `loop.py` for the algorithm, `evaluation.py` for evaluations and `checkpoint.py` for the state
that is saved.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

import torch

from envgym.errors import TooManyFailures, UsageError
from envgym.registration import make_world
from envgym.spec.environment import EnvSpec
from envgym_trainer.algorithms.registry import find_advantage, find_loss
from envgym_trainer.config import TrainConfig
from envgym_trainer.config.evaluation import TRAINED
from envgym_trainer.inference import open_engine
from envgym_trainer.inference.in_process.attention import why_unknown
from envgym_trainer.inference.in_process.native_threads import use_single_malloc_arena
from envgym_trainer.learner.controllers import Controllers
from envgym_trainer.learner.learner import Learner
from envgym_trainer.learner.off_policy import MismatchMonitor, SamplerMismatch
from envgym_trainer.learner.update_settings import UpdateSettings
from envgym_trainer.model.load import load_model, pick_device
from envgym_trainer.model.lora import attach_lora
from envgym_trainer.model.rendering_choice import open_chat
from envgym_trainer.rollout.collector import RolloutCollector
from envgym_trainer.rollout.group_scorer import GroupScorer
from envgym_trainer.rollout.plans import PlanContext, open_plan
from envgym_trainer.rollout.task_sampler import TaskSampler
from envgym_trainer.run.display import Display
from envgym_trainer.run.folder import RunFolder
from envgym_trainer.run.hacking_monitor import HackingMonitor
from envgym_trainer.run.logger import Phase, RunLogger
from envgym_trainer.run.metrics import Metrics
from envgym_trainer.training import checkpoint
from envgym_trainer.training.checkpoint import Progress, Stateful
from envgym_trainer.training.interrupt import GracefulStop, StopRequested
from envgym_trainer.training.resume import restore
from envgym_trainer.training.schedule import Schedule


class TrainingRun:
    """Objects and progress of one training run. It owns world, model, engine and learner.

    Args:
        spec: Environment specification.
        config: The `train:` block, resolved for this device.
        folder: Run folder. All files are written there.
        logger: Receives the metrics.
        display: Shows the progress in the terminal.

    Raises:
        UsageError: If the settings do not fit the model.
        SpecError: If the settings do not fit the environment.
        PrerequisiteError: If a package is not installed or a service is not reachable.
    """

    def __init__(
        self,
        spec: EnvSpec,
        config: TrainConfig,
        folder: RunFolder,
        logger: RunLogger,
        display: Display,
    ):
        self.spec = spec
        self.config = config
        self.folder = folder
        self.logger = logger
        self.display = display
        self.progress = Progress()
        self.stop = GracefulStop()
        self.schedule = Schedule(config)
        # A file with a mistake fails now rather than after the first episodes.
        find_loss(config.algorithm.loss.name)
        find_advantage(config.algorithm.advantage.name)
        torch.manual_seed(config.seed)
        use_single_malloc_arena()
        base, self.tokenizer = load_model(
            config.model.name,
            device=pick_device(config.model.device),
            dtype=None if config.model.dtype == "auto" else getattr(torch, config.model.dtype),
            notify=display.note,
            quantize=config.model.quantize,
        )
        self.chat = open_chat(spec, self.tokenizer, model=base)
        self.model = attach_lora(base, **dict(config.lora), seed=config.seed)
        self.learner = self.new_learner()
        settings = UpdateSettings.from_config(config)
        self.controllers = Controllers(config.controllers, settings)
        self.settings = self.controllers.apply(settings)
        with ExitStack() as opened:
            engine = open_engine(
                config,
                model=self.model,
                chat=self.chat,
                folder=folder.path / "served",
                root=spec.root,
                notify=display.note,
            )
            self.engine = opened.enter_context(closing(engine))
            self.mismatch_monitor = MismatchMonitor(
                dtype=engine.dtype or base.dtype,
                on_mismatch=config.checks.on_mismatch,
                notify=display.note,
            )
            self.world = opened.enter_context(closing(make_world(spec)))
            self.plan = open_plan(PlanContext(spec, config, self.world, self.model))
            self.task_sampler = TaskSampler(spec, config, self.world.tasks, self.plan)
            self.scorer = GroupScorer(
                self.world, config.reward_weights, folder.find_episodes, display.note, self.plan
            )
            self.hacking_monitor = HackingMonitor(
                self.world, folder, is_on=config.checks.hacking_signals, notify=display.note
            )
            self.collector = RolloutCollector(
                spec,
                config,
                world=self.world,
                model=self.model,
                engine=self.engine,
                scorer=self.scorer,
                plan=self.plan,
                folder=folder,
                logger=logger,
            )
            opened.pop_all()  # All objects were built. `close` closes them.

    @property
    def stateful(self) -> dict[str, Stateful]:
        """Objects besides the learner whose state a checkpoint stores."""
        return {
            "controllers": self.controllers,
            "task_sampler": self.task_sampler,
            "scorer": self.scorer,
            "plan": self.plan,
            "hacking_monitor": self.hacking_monitor,
        }

    def new_learner(self) -> Learner:
        """Return a learner whose optimizer state starts from zero."""
        config = self.config
        base_config = self.model.get_base_model().config
        return Learner(
            self.model,
            max_grad_norm=config.optimizer.max_grad_norm,
            weight_decay=config.optimizer.weight_decay,
            warmup_steps=config.optimizer.warmup_updates,
            max_tokens_per_micro_batch=config.optimizer.micro_batch_tokens,
            algorithm=config.algorithm,
            constant_length=config.rollout.max_turn_tokens,
            layout="flat"
            if why_unknown(base_config, config.rollout.max_context_tokens)
            else "tree",
        )

    def report(self, step: int, phase: Phase, metrics: Metrics) -> None:
        """Log the metrics of a finished step and record it in the progress."""
        self.progress.step = step
        self.logger.log(step, metrics, phase=phase)
        self.progress.file_sizes = self.folder.file_sizes()
        done = step if phase == "warmup" else step - self.schedule.warmup_steps
        self.display.update(phase, done, metrics)

    def save(self) -> None:
        """Write a checkpoint."""
        self.folder.save_checkpoint(
            self.progress.step,
            lambda folder: checkpoint.save(folder, self.learner, self.progress, self.stateful),
            keep=self.config.output.keep_checkpoints,
            also_keep=[int(self.progress.best["step"])] if self.progress.best else (),
        )

    def resume(self) -> None:
        """Restore the run's last complete checkpoint. See `resume.restore`."""
        self.learner, self.progress = restore(
            self.folder, self.new_learner, self.stateful, notify=self.display.note
        )
        self.settings = self.controllers.apply(self.settings)
        # A finished run was extended by more steps, so its final evaluation is outdated.
        if self.progress.step < self.schedule.total_steps:
            self.progress.evaluations.pop(TRAINED, None)

    @contextmanager
    def saving_on_stop(self) -> Iterator[None]:
        """Return a context that saves all progress before an error that stops the run is raised."""
        try:
            yield
        except (StopRequested, TooManyFailures, SamplerMismatch):
            # All three are raised between two updates, so the state is consistent.
            self.collector.log_discarded()
            self.save()
            raise
        except UsageError:
            # Raised, for example, if an LLM judge rejects the API key.
            if self.progress.step:
                self.save()
            raise

    def close(self) -> None:
        """Close engine, collector and world. Prefetched episodes are discarded."""
        self.engine.close()
        self.collector.close()
        self.world.close()
