"""What the preflight looks at: an environment, its training settings, a loaded model; and who has played it so far.

Nothing here learns, and no random state of the run is touched.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from envgym.episode import Episode
from envgym.evaluation.checks.fixture import CheckResult
from envgym.play import Request, play_many
from envgym.policies import Policy
from envgym.spec.environment import EnvSpec
from envgym.tasks import Task, stable_seed
from envgym_trainer.config import TrainConfig
from envgym_trainer.inference.dialogue import Sampler
from envgym_trainer.inference.in_process.engine import Engine
from envgym_trainer.inference.policies.demonstration import DemoPolicy
from envgym_trainer.model.chat import Chat

TASKS = {False: 16, True: 64}
"""Training tasks that oracle and no-op play, in the fast part and in full."""
SPLIT_TASKS = {False: 64, True: 400}
"""Tasks of each split that are compared."""
TOLERATED = 0.1
"""Share of tasks in which something may be amiss before a run is refused: a rare template broken is no reason to stop."""
WORKERS = 16


@dataclass
class Subject:
    """A run that has not begun."""

    spec: EnvSpec
    config: TrainConfig
    world: Any
    chat: Chat
    engine: Sampler
    model: Any
    """PEFT's, with a fresh adapter."""
    is_full: bool = True
    groups: list[list[Episode]] = field(default_factory=list)
    """What the model has played so far, at the training temperature."""

    @property
    def has_own_tasks(self) -> bool:
        """Whether its tasks are ours, with a hidden truth; a foreign Gymnasium environment has seeds alone."""
        return not self.spec.gym

    @cached_property
    def tasks(self) -> list[Task]:
        """Training tasks of every template in turn; empty for a foreign environment."""
        return self.tasks_of("train", TASKS[self.is_full]) if self.has_own_tasks else []

    def tasks_of(self, split: Any, count: int) -> list[Task]:
        """The first tasks of a split, of the levels that are trained."""
        size = count if split == "train" else min(count, self.world.tasks.sizes[split])
        return [
            self.world.tasks.task(task)
            for task in self.world.tasks.ids(split, levels=self.config.levels, count=size)
        ]

    @cached_property
    def demos(self) -> list[Episode]:
        """The oracle's episodes with their tokens, one for each of `tasks` that has an oracle."""
        policy = DemoPolicy(self.chat, self.spec.prompt.dialects[0])
        return self.play(policy, [Request(task.id, 0) for task in self.tasks if task.has_solution])

    def play(self, policy: Policy, requests: Sequence[Request]) -> list[Episode]:
        return (
            play_many(self.world.env, policy, requests, workers=min(WORKERS, self.config.workers))
            if requests
            else []
        )

    def play_groups(self, count: int, size: int) -> list[list[Episode]]:
        """`count` more groups by the model as it is, as in training; kept in `groups`."""
        first = len(self.groups)
        ids = self.world.tasks.ids("train", levels=self.config.levels, count=first + count)[first:]
        policy = self.engine.policy(
            temperature=self.config.temperature, max_new_tokens=self.config.max_new_tokens
        )
        seeds = [
            (task, stable_seed(self.config.seed, "preflight", task, member))
            for task in ids
            for member in range(size)
        ]
        requests = [Request(task, seed) for task, seed in seeds]
        played = play_many(self.world.env, policy, requests, workers=self.config.workers)
        groups = [played[start : start + size] for start in range(0, len(played), size)]
        self.groups += groups
        return groups


@contextmanager
def open_subject(
    spec: EnvSpec, config: TrainConfig, *, is_full: bool = True, say: Any = print
) -> Iterator[Subject]:
    """World, model and sampler as a training run would open them; closed at the end.

    Raises: UsageError, PrerequisiteError where they cannot be opened at all.
    """
    import torch

    from envgym.registration import make_world
    from envgym_trainer.model.load import load_model, pick_device
    from envgym_trainer.model.lora import attach

    dtype = None if config.dtype == "auto" else getattr(torch, config.dtype)
    base, tokenizer = load_model(
        config.model,
        device=pick_device(config.device),
        dtype=dtype,
        say=say,
        quantize=config.lora.quantize,
    )
    chat = Chat(tokenizer, model=base)
    model = attach(base, **config.lora.model_dump(exclude={"quantize", "export"}), seed=config.seed)
    world = make_world(spec)
    try:
        with Engine(
            model, chat, max_context=config.max_context, max_batch=config.workers
        ) as engine:
            yield Subject(spec, config, world, chat, engine, model, is_full)
    finally:
        world.close()


def verdict(
    check: str, offenders: Sequence[str], total: int, *, passed: str, way_out: str
) -> CheckResult:
    """Passed when nobody offended, a warning while only few did, failed beyond `TOLERATED`; the detail ends with the way out."""
    if not offenders:
        return CheckResult(check, True, passed)
    told = f"{len(offenders)} of {total} tasks: {'; '.join(offenders[:2])}. {way_out}"
    few = len(offenders) <= TOLERATED * total
    return CheckResult(check, few, told, warning=few)
