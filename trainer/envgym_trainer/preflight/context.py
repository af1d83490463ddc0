"""Context of the preflight: environment, settings, loaded model and its episodes.

Checks do not train and do not change the random state of the run.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from envgym.env import ToolWorld
from envgym.episode import Episode
from envgym.evaluation.checks.fixture import CheckResult
from envgym.playing import Request, play_many
from envgym.policies import Policy
from envgym.spec.environment import EnvSpec
from envgym.tasks import Split, Task, stable_seed
from envgym.world import World
from envgym_trainer.config import TrainConfig
from envgym_trainer.inference import Engine, open_engine
from envgym_trainer.inference.policies.demonstration import DemoPolicy
from envgym_trainer.model.chat import Chat

TASKS = {False: 16, True: 64}
"""Training tasks for oracle and no-op, by `is_full`."""
SPLIT_TASKS = {False: 64, True: 400}
"""Compared tasks of each split, by `is_full`."""
TOLERATED = 0.1
"""Maximum fraction of tasks with a problem. A rare broken template does not stop a run."""
WORKERS = 16


@dataclass
class PreflightContext:
    """Everything that the checks of a run read. No training has happened yet."""

    spec: EnvSpec
    config: TrainConfig
    world: World
    chat: Chat
    engine: Engine
    model: Any
    """PEFT model with a new adapter."""
    is_full: bool = True
    groups: list[list[Episode]] = field(default_factory=list)
    """Groups that the model has played, at the training temperature."""

    @property
    def has_own_tasks(self) -> bool:
        """Whether tasks have prompts and solutions. Foreign environments have only seeds."""
        return isinstance(self.world, ToolWorld)

    @property
    def tool_world(self) -> ToolWorld:
        """World of the tasks. Only if `has_own_tasks` is True."""
        assert isinstance(self.world, ToolWorld)
        return self.world

    @cached_property
    def tasks(self) -> list[Task]:
        """Training tasks, alternating between templates; empty for a foreign environment."""
        return self.tasks_of("train", TASKS[self.is_full]) if self.has_own_tasks else []

    def tasks_of(self, split: Split, count: int) -> list[Task]:
        """Return the first tasks of a split, of the trained levels."""
        available = self.world.tasks.sizes[split]
        size = count if available is None else min(count, available)
        return [
            self.world.tasks.task(task)
            for task in self.world.tasks.ids(split, levels=self.config.tasks.levels, count=size)
        ]

    @cached_property
    def demos(self) -> list[Episode]:
        """Oracle episodes with tokens, one for each of `tasks` that has an oracle."""
        policy = DemoPolicy(self.chat, self.spec.prompt.dialects[0])
        return self.play(policy, [Request(task.id, 0) for task in self.tasks if task.has_solution])

    def play(self, policy: Policy, requests: Sequence[Request]) -> list[Episode]:
        """Play the requests, at most `WORKERS` at once."""
        if not requests:
            return []
        workers = min(WORKERS, self.config.rollout.max_concurrent_episodes)
        return play_many(self.world.env, policy, requests, workers=workers)

    def play_groups(self, count: int, size: int) -> list[list[Episode]]:
        """Play `count` more groups with the model, as in training, and append them to `groups`."""
        first = len(self.groups)
        ids = self.world.tasks.ids("train", levels=self.config.tasks.levels, count=first + count)[
            first:
        ]
        policy = self.engine.policy(
            temperature=self.config.rollout.temperature,
            max_new_tokens=self.config.rollout.max_turn_tokens,
        )
        seeds = [
            (task, stable_seed(self.config.seed, "preflight", task, member))
            for task in ids
            for member in range(size)
        ]
        requests = [Request(task, seed) for task, seed in seeds]
        played = play_many(
            self.world.env, policy, requests, workers=self.config.rollout.max_concurrent_episodes
        )
        groups = [played[start : start + size] for start in range(0, len(played), size)]
        self.groups += groups
        return groups


@contextmanager
def open_preflight(
    spec: EnvSpec,
    config: TrainConfig,
    *,
    is_full: bool = True,
    notify: Callable[[str], None] = print,
) -> Iterator[PreflightContext]:
    """Open world, model and engine as a training run does. They are closed at the end.

    Args:
        spec: Environment specification.
        config: Training settings.
        is_full: Whether the checks may take minutes.
        notify: Receives one line of text before each slow operation.

    Raises:
        UsageError: If the settings do not fit the model.
        PrerequisiteError: If something is not installed or not reachable.
    """
    import torch

    from envgym.registration import make_world
    from envgym_trainer.model.load import load_model, pick_device
    from envgym_trainer.model.lora import attach_lora
    from envgym_trainer.model.rendering_choice import open_chat

    dtype = None if config.model.dtype == "auto" else getattr(torch, config.model.dtype)
    base, tokenizer = load_model(
        config.model.name,
        device=pick_device(config.model.device),
        dtype=dtype,
        notify=notify,
        quantize=config.model.quantize,
    )
    chat = open_chat(spec, tokenizer, model=base)
    model = attach_lora(base, **dict(config.lora), seed=config.seed)
    with ExitStack() as stack:
        world = make_world(spec)
        stack.callback(world.close)
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="envgym-"))
        engine = open_engine(
            config, model=model, chat=chat, folder=Path(scratch), root=spec.root, notify=notify
        )
        stack.callback(engine.close)
        yield PreflightContext(spec, config, world, chat, engine, model, is_full)


def preflight_result(
    check: str, problems: Sequence[str], total: int, *, passed: str, remedy: str
) -> CheckResult:
    """Pass if no task has a problem, warn if at most `TOLERATED` do, and fail otherwise.

    Args:
        check: Name of the check.
        problems: One text for each task with a problem.
        total: Number of tasks.
        passed: Detail if no task has a problem.
        remedy: End of the detail otherwise.
    """
    if not problems:
        return CheckResult(check, True, passed)
    detail = f"{len(problems)} of {total} tasks: {'; '.join(problems[:2])}. {remedy}"
    few = len(problems) <= TOLERATED * total
    return CheckResult(check, few, detail, warning=few)
