"""Who plays a run's episodes: groups for the learner, in turn with it or one step ahead of it, and those of evaluations.

One step ahead, the next step's episodes are played while this one is learned from, by the adapter as it was before the update.
The loss's ratio is taken to what the sampler said when it drew them, which corrects for that step within its clip;
`algorithm.correction` bounds it further, and `offpolicy/staleness_mean` tells how far it is.
Source: Noukhovitch et al., Asynchronous RLHF, arXiv 2410.18252, sec. 3.
Left out: groups themselves (`groups.py`), and when to play ahead (`train.py`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

from envgym.episode import Episode
from envgym.errors import TooManyFailures
from envgym.failures import FailureCap
from envgym.play import Request, play_many
from envgym.policies import Policy
from envgym.spec.environment import EnvSpec
from envgym.tasks import stable_seed
from envgym_trainer.config import TrainConfig
from envgym_trainer.inference.dialogue import Sampler
from envgym_trainer.inference.in_process.engine import Engine
from envgym_trainer.rollout.group_scorer import RewardLayer
from envgym_trainer.rollout.groups import Group, Played, play_groups
from envgym_trainer.rollout.lockstep import play_in_step
from envgym_trainer.rollout.plans.self_training import SelfTraining
from envgym_trainer.rollout.task_sampler import Draws
from envgym_trainer.run.folder import RunFolder
from envgym_trainer.run.logger import Monitor, Phase
from envgym_trainer.run.metrics import failure_metrics, sandbox_metrics


class Rollouts:
    """Plays in one world with one sampler; closes neither. Everything but `start` waits for its episodes.

    Args:
        spec, config: of the run.
        world: whose environments are played. engine: whose dialogues play.
        rewards: scores the groups.
        labels: whose votes those are, in self-training.
        folder, monitor: where episodes are written that were played in vain.
    """

    def __init__(
        self,
        spec: EnvSpec,
        config: TrainConfig,
        world: Any,
        engine: Sampler,
        rewards: RewardLayer,
        folder: RunFolder,
        monitor: Monitor,
        labels: SelfTraining | None = None,
    ):
        self.config = config
        self.world = world
        self.engine = engine
        self.folder = folder
        self.monitor = monitor
        self.rewards = rewards
        self.labels = labels
        self._cap = FailureCap(
            spec.episode.max_void, logged=f"Every episode is in {folder.episodes_file}."
        )
        self._play_many: Callable[..., list[Episode]] = play_many
        if config.deterministic and isinstance(engine, Engine):
            self._play_many = partial(play_in_step, engine)
        self._lost: tuple[int, Phase, list[Episode]] | None = None
        self._pool = ThreadPoolExecutor(1, "envgym-ahead")
        self._ahead: Future[Played] | None = None

    def groups(self, step: int, draws: Draws, *, sampled_at: int | None = None) -> Played:
        """`tasks_per_step` groups of `group_size` episodes by the sampler's present weights, and what was played on the way.

        Args:
            sampled_at: the learner's updates so far.
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
            tasks=labels.groups_to_play(config.tasks_per_step) if labels else config.tasks_per_step,
            size=config.group_size,
            max_extra=config.max_extra_groups,
            score=score,
        )
        idle = 1 - (self.engine.seconds_busy - busy) / (time.perf_counter() - started)
        played = labels.most_agreed(played, config.tasks_per_step) if labels else played
        return replace(played, taught=taught, sampled_at=sampled_at, idle=idle)

    def _policy(self) -> Policy:
        config = self.config
        return self.engine.policy(
            temperature=config.temperature,
            max_new_tokens=config.max_new_tokens,
            siblings=config.group_size,
        )

    def _vote_on(self, tasks: Sequence[str], *, step: int) -> list[Group]:
        """A group of each task that is played for its votes alone."""
        size = self.config.group_size
        seed = self.config.seed
        requests = [
            Request(task, stable_seed(seed, step, "vote", task, g))
            for task in tasks
            for g in range(size)
        ]
        episodes = self.play(self._policy(), requests, step=step, phase="grpo")
        return [episodes[start : start + size] for start in range(0, len(episodes), size)]

    def _taught(self, groups: Sequence[Group], step: int) -> list[Episode]:
        """Lets the teacher vote where its votes are needed; its episodes."""
        labels = self.labels
        if labels is None or labels.teacher is None or not (tasks := labels.unheard(groups)):
            return []
        with labels.teacher.in_place():
            self.engine.refresh(labels.teacher.model)
        votes = self._vote_on(tasks, step=step)
        self.engine.refresh(labels.teacher.model)
        labels.hear(tasks, votes)
        return [episode for group in votes for episode in group]

    def start(self, step: int, draws: Draws, *, sampled_at: int) -> None:
        """`groups`, on another thread; `take` hands them over."""
        self._ahead = self._pool.submit(self.groups, step, draws, sampled_at=sampled_at)

    def take(self) -> Played | None:
        """The groups that were started, waited for; None where none were. Raises what playing them raised."""
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
        """Plays the requests. What was played before the run is stopped for its failures, `earlier` in the same step too, is
        kept for `write_lost`."""
        played = list(earlier)

        def keep(episode: Episode) -> None:
            played.append(episode)
            on_episode(episode)

        try:
            return self._play_many(
                self.world.env,
                policy,
                requests,
                workers=self.config.workers,
                on_episode=keep,
                cap=self._cap,
            )
        except TooManyFailures:
            self._lost = step, phase, played
            raise

    def write_lost(self) -> None:
        """Writes what was played in vain, for people to read, on the thread that writes everything else."""
        if self._lost is None:
            return
        step, phase, played = self._lost
        prefix = "eval/" if phase == "eval" else ""
        self.folder.append_episodes(step, played, phase=phase)
        numbers = failure_metrics([played], prefix=prefix) | sandbox_metrics(
            self.world, prefix=prefix
        )
        self.monitor.log(step, numbers, phase=phase)

    def close(self) -> None:
        """Waits for whatever is being played ahead, and leaves it. A closed sampler ends it soon."""
        self._pool.shutdown()
