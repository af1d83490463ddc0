"""Collect a run's episodes: groups for training, in turn with the learner or one step ahead.

One step ahead, the next step's episodes are sampled during the current update, with the adapter
from before that update. The loss uses the logprobs recorded at sampling, which corrects for one
step within the clip range. `algorithm.correction` bounds the ratio further, and
`off_policy/staleness_mean` measures the distance.
Source: Noukhovitch et al., Asynchronous RLHF, arXiv 2410.18252, sec. 3.
See `groups.py` for the groups and `train.py` for when to prefetch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial

from envgym.episode import Episode
from envgym.errors import TooManyFailures
from envgym.failures import FailureLimit
from envgym.playing import Request, play_many
from envgym.policies import Policy
from envgym.spec.environment import EnvSpec
from envgym.tasks import stable_seed
from envgym.world import World
from envgym_trainer.config import TrainConfig
from envgym_trainer.inference.dialogue import Engine
from envgym_trainer.inference.in_process.engine import InProcessEngine
from envgym_trainer.rollout.group_scorer import GroupScorer
from envgym_trainer.rollout.groups import Group, RolloutBatch, play_groups
from envgym_trainer.rollout.lockstep import play_in_step
from envgym_trainer.rollout.plans.self_training import SelfTraining
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
        engine: Samples the responses.
        rewards: Computes the rewards of the groups.
        folder: Run folder for episodes that were discarded.
        monitor: Logger for the metrics of discarded episodes.
        labels: Votes and labels. Used by self-training only.
    """

    def __init__(
        self,
        spec: EnvSpec,
        config: TrainConfig,
        world: World,
        engine: Engine,
        rewards: GroupScorer,
        folder: RunFolder,
        monitor: RunLogger,
        labels: SelfTraining | None = None,
    ):
        self.config = config
        self.world = world
        self.engine = engine
        self.folder = folder
        self.monitor = monitor
        self.rewards = rewards
        self.labels = labels
        self._cap = FailureLimit(
            spec.episode.max_void_fraction, logged=f"Every episode is in {folder.episodes_file}."
        )
        self._play_many: Callable[..., list[Episode]] = play_many
        if config.rollout.deterministic and isinstance(engine, InProcessEngine):
            self._play_many = partial(play_in_step, engine)
        self._lost: tuple[int, Phase, list[Episode]] | None = None
        self._pool = ThreadPoolExecutor(1, "envgym-ahead")
        self._ahead: Future[RolloutBatch] | None = None

    def groups(self, step: int, draws: TaskDraw, *, sampled_at: int | None = None) -> RolloutBatch:
        """Play `tasks_per_step` groups of `group_size` episodes with the engine's current weights.

        Args:
            step: Training step.
            draws: Tasks of the step.
            sampled_at: Number of updates that the learner had made.

        Returns:
            The groups, with all retried, discarded and teacher episodes.
        """
        config = self.config
        earlier = list[Episode]()
        taught = list[Episode]()
        policy = self._policy()
        labels = self.labels

        def play(requests: Sequence[Request]) -> list[Episode]:
            episodes = self.play(policy, requests, step=step, phase="grpo", earlier=earlier)
            earlier.extend(episodes)
            return episodes

        def score(groups: Sequence[Group]) -> list[Group]:
            taught.extend(self._taught(groups, step))
            return self.rewards.score(groups, step=draws.trained_steps)

        if labels:
            labels.begin(partial(self._vote_on, step=step))
            labels.begin_step()
        started = time.perf_counter()
        busy = self.engine.seconds_busy
        played = play_groups(
            play,
            draws,
            tasks=labels.groups_to_play(config.rollout.groups_per_step)
            if labels
            else config.rollout.groups_per_step,
            size=config.rollout.group_size,
            max_extra=config.rollout.max_extra_groups,
            score=score,
        )
        idle = 1 - (self.engine.seconds_busy - busy) / (time.perf_counter() - started)
        played = labels.select_groups(played, config.rollout.groups_per_step) if labels else played
        return replace(played, taught=taught, sampled_at=sampled_at, idle=idle)

    def _policy(self) -> Policy:
        config = self.config
        return self.engine.policy(
            temperature=config.rollout.temperature,
            max_new_tokens=config.rollout.max_turn_tokens,
            siblings=config.rollout.group_size,
        )

    def _vote_on(self, tasks: Sequence[str], *, step: int) -> list[Group]:
        """Play one group of each task for its votes only."""
        size = self.config.rollout.group_size
        seed = self.config.seed
        requests = [
            Request(task, stable_seed(seed, step, "vote", task, g))
            for task in tasks
            for g in range(size)
        ]
        episodes = self.play(self._policy(), requests, step=step, phase="grpo")
        return [episodes[start : start + size] for start in range(0, len(episodes), size)]

    def _taught(self, groups: Sequence[Group], step: int) -> list[Episode]:
        """Collect missing teacher votes. Return the teacher's episodes."""
        labels = self.labels
        if labels is None or labels.teacher is None or not (tasks := labels.unheard(groups)):
            return []
        with labels.teacher.in_place():
            self.engine.refresh(labels.teacher.model)
        votes = self._vote_on(tasks, step=step)
        self.engine.refresh(labels.teacher.model)
        labels.hear(tasks, votes)
        return [episode for group in votes for episode in group]

    def start(self, step: int, draws: TaskDraw, *, sampled_at: int) -> None:
        """Prefetch the groups of a step on another thread. See `take`."""
        self._ahead = self._pool.submit(self.groups, step, draws, sampled_at=sampled_at)

    def take(self) -> RolloutBatch | None:
        """Wait for the prefetched groups and return them, or None if `start` was not called.

        Errors raised during the prefetch are raised here.
        """
        ahead = self._ahead
        self._ahead = None
        return ahead.result() if ahead else None

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
        """Play the requests.

        If too many episodes are void, all episodes so far and `earlier` (episodes of the same step)
        are kept for `write_lost`.
        """
        played = list(earlier)

        def keep(episode: Episode) -> None:
            played.append(episode)
            on_episode(episode)

        try:
            return self._play_many(
                self.world.env,
                policy,
                requests,
                workers=self.config.rollout.max_concurrent_episodes,
                on_episode=keep,
                cap=self._cap,
            )
        except TooManyFailures:
            self._lost = step, phase, played
            raise

    def write_lost(self) -> None:
        """Write the episodes of a run that was stopped because too many were void.

        Called on the thread that writes all other files.
        """
        if self._lost is None:
            return
        step, phase, played = self._lost
        prefix = "eval/" if phase == "eval" else ""
        self.folder.append_episodes(step, played, phase=phase)
        numbers = failure_metrics([played], prefix=prefix) | drain_sandbox_metrics(
            self.world, prefix=prefix
        )
        self.monitor.log(step, numbers, phase=phase)

    def close(self) -> None:
        """Wait for the prefetched episodes and discard them.

        Close the engine first to end them early.
        """
        self._pool.shutdown()
