"""Collect a run's episodes: groups for training, in turn with the learner or one step ahead.

One step ahead, the next step's episodes are sampled during the current update, with the adapter
from before that update. The loss uses the logprobs recorded at sampling, which corrects for one
step within the clip range. `algorithm.importance_weights` bounds the ratio further, and
`off_policy/staleness_mean` measures the distance. See `groups.py` for the groups.
Source: Noukhovitch et al., Asynchronous RLHF, arXiv 2410.18252, sec. 3.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from typing import Any

from envgym.episode import Episode
from envgym.errors import TooManyFailures
from envgym.failures import FailureLimit
from envgym.playing import Request, play_many
from envgym.policies import Policy
from envgym.spec.environment import EnvSpec
from envgym.tasks import stable_seed
from envgym.world import World
from envgym_trainer.config import TrainConfig
from envgym_trainer.inference import Engine
from envgym_trainer.rollout.group_scorer import GroupScorer
from envgym_trainer.rollout.groups import play_groups
from envgym_trainer.rollout.lockstep import play_in_step
from envgym_trainer.rollout.plans import PlayTasks, TrainingPlan
from envgym_trainer.rollout.rollout_batch import Group, PartValues, RolloutBatch
from envgym_trainer.rollout.task_sampler import TaskDraw
from envgym_trainer.run.folder import RunFolder
from envgym_trainer.run.logger import Phase, RunLogger
from envgym_trainer.run.metrics import drain_sandbox_metrics, failure_metrics


class RolloutCollector:
    """Episodes of one run, played in one world with one engine. Closes neither of them.

    Args:
        spec: Environment specification.
        config: Training settings.
        world: Provides the environments.
        model: The model that is trained.
        engine: Samples the responses.
        scorer: Computes the rewards of the groups.
        plan: Selects the groups.
        folder: Run folder for the episodes of a run that is stopped.
        logger: Logger for the metrics of these episodes.
    """

    def __init__(
        self,
        spec: EnvSpec,
        config: TrainConfig,
        *,
        world: World,
        model: Any,
        engine: Engine,
        scorer: GroupScorer,
        plan: TrainingPlan,
        folder: RunFolder,
        logger: RunLogger,
    ):
        self.config = config
        self.world = world
        self.model = model
        self.engine = engine
        self.scorer = scorer
        self.plan = plan
        self.folder = folder
        self.logger = logger
        self._limit = FailureLimit(
            spec.episode.max_void_fraction, logged=f"Every episode is in {folder.episodes_file}."
        )
        self._play_many: Callable[..., list[Episode]] = play_many
        if config.rollout.deterministic and engine.supports_lockstep:
            self._play_many = partial(play_in_step, engine)
        self._discarded: tuple[int, Phase, list[Episode]] | None = None
        self._pool = ThreadPoolExecutor(1, "envgym-ahead")
        self._prefetched: Future[RolloutBatch] | None = None

    def collect(self, step: int, draws: TaskDraw, *, sampled_at: int | None = None) -> RolloutBatch:
        """Play the groups of a step with the engine's current weights.

        Args:
            step: Training step.
            draws: Tasks of the step.
            sampled_at: Number of updates that the learner had made.

        Returns:
            The groups, with all retried, discarded and teacher episodes.
        """
        options = self.config.rollout
        policy = self._policy()
        earlier: list[Episode] = []
        teacher_episodes: list[Episode] = []
        part_values: list[PartValues] = []

        def play(requests: Sequence[Request]) -> list[Episode]:
            episodes = self.play(policy, requests, step=step, phase="grpo", earlier=earlier)
            earlier.extend(episodes)
            return episodes

        def score(groups: Sequence[Group]) -> list[Group]:
            teacher_episodes.extend(self.plan.collect_votes(groups, play_tasks))
            scored = self.scorer.score(groups, step=draws.trained_steps, earlier=part_values)
            part_values.append(scored.part_values)
            return scored.groups

        play_tasks: PlayTasks = partial(self._play_tasks, step=step)
        self.plan.start_step(play_tasks)
        started = time.perf_counter()
        busy = self.engine.statistics.seconds_busy
        batch = play_groups(
            play,
            draws,
            tasks=self.plan.groups_to_collect(options.groups_per_step),
            size=options.group_size,
            max_extra=options.max_extra_groups,
            score=score,
        )
        busy = self.engine.statistics.seconds_busy - busy
        idle = 1 - busy / (time.perf_counter() - started)
        batch = self.plan.select_groups(batch, options.groups_per_step)
        return replace(
            batch,
            teacher_episodes=teacher_episodes,
            plan_metrics=self.plan.metrics(batch),
            part_values=tuple(part_values),
            sampled_at=sampled_at,
            idle=idle,
        )

    def prefetch(self, step: int, draws: TaskDraw, *, sampled_at: int) -> None:
        """Collect the groups of a step on another thread. See `take_prefetched`."""
        self._prefetched = self._pool.submit(self.collect, step, draws, sampled_at=sampled_at)

    def take_prefetched(self) -> RolloutBatch | None:
        """Wait for the prefetched groups and return them, or None if there are none.

        Errors raised during the prefetch are raised here.
        """
        prefetched = self._prefetched
        self._prefetched = None
        return prefetched.result() if prefetched else None

    def play(
        self,
        policy: Policy,
        requests: Sequence[Request],
        *,
        step: int,
        phase: Phase,
        on_episode: Callable[[Episode], None] = lambda episode: None,
        earlier: Sequence[Episode] = (),
    ) -> list[Episode]:
        """Play the requests. The records name the policy by the phase.

        If too many episodes are void, all episodes so far and `earlier` (episodes of the same step)
        are kept for `log_discarded`.
        """
        played = list(earlier)

        def keep(episode: Episode) -> None:
            played.append(replace(episode, policy=phase))
            on_episode(episode)

        try:
            episodes = self._play_many(
                self.world.env,
                policy,
                requests,
                workers=self.config.rollout.max_concurrent_episodes,
                on_episode=keep,
                cap=self._limit,
            )
            return [replace(episode, policy=phase) for episode in episodes]
        except TooManyFailures:
            self._discarded = step, phase, played
            raise

    def log_discarded(self) -> None:
        """Log the episodes of a run that was stopped because too many were void.

        Called on the thread that writes all other files.
        """
        if self._discarded is None:
            return
        step, phase, episodes = self._discarded
        prefix = "eval/" if phase == "eval" else ""
        self.folder.append_episodes(step, episodes, phase=phase)
        numbers = failure_metrics([episodes], prefix=prefix)
        numbers |= drain_sandbox_metrics(self.world, prefix=prefix)
        self.logger.log(step, numbers, phase=phase)

    def close(self) -> None:
        """Wait for the prefetched episodes and discard them.

        Close the engine first to end them early.
        """
        self._pool.shutdown()

    def _policy(self) -> Policy:
        options = self.config.rollout
        return self.engine.policy(
            temperature=options.temperature,
            max_new_tokens=options.max_turn_tokens,
            group_size=options.group_size,
        )

    def _play_tasks(
        self,
        tasks: Sequence[str],
        *,
        step: int,
        adapter: AbstractContextManager[None] | None = None,
    ) -> list[Group]:
        """Play one group of each task. See `plans.PlayTasks`."""
        size = self.config.rollout.group_size
        requests = [
            Request(task, stable_seed(self.config.seed, step, "vote", task, g))
            for task in tasks
            for g in range(size)
        ]
        if adapter is not None:
            with adapter:
                self.engine.load_adapter(self.model)
        episodes = self.play(self._policy(), requests, step=step, phase="grpo")
        if adapter is not None:
            self.engine.load_adapter(self.model)
        return [episodes[start : start + size] for start in range(0, len(episodes), size)]
