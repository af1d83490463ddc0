"""World for any Gymnasium environment with text observations and actions.

Its tasks are seeds: task `train/seed/17` resets the environment with a seed derived from that id.
So the members of a group start from the same state, and held-out seeds are never trained on. Not
supported: other observation and action spaces.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import gymnasium

from envgym.errors import SpecError, UsageError
from envgym.spec.environment import EnvSpec
from envgym.tasks import SPLITS, Split, stable_seed


class SeedTasks:
    """Tasks of an environment that has only seeds: ids of the form `split/seed/index`."""

    def __init__(self, spec: EnvSpec):
        self.spec = spec
        self.sizes = {"val": spec.tasks.val, "test": spec.tasks.test}

    def ids(
        self, split: Split, *, levels: Sequence[str] = (), count: int | None = None
    ) -> list[str]:
        return [
            f"{split}/seed/{index}"
            for index in range(self.sizes[split] if count is None else count)
        ]

    def draw_id(self, split: Split, rng: random.Random, *, levels: Sequence[str] = ()) -> str:
        return (
            f"train/seed/{rng.randrange(2**31)}"
            if split == "train"
            else rng.choice(self.ids(split))
        )

    def seed_of(self, task_id: str) -> int:
        split, _, index = task_id.partition("/seed/")
        if split not in SPLITS or not index.isdigit():
            raise SpecError(
                f"task '{task_id}': must look like split/seed/index, for example test/seed/0"
            )
        return stable_seed(self.spec.id, task_id)


class ForeignWorld:
    """Counterpart of `envgym.env.World` for a foreign environment."""

    def __init__(self, spec: EnvSpec):
        self.spec, self.tasks = spec, SeedTasks(spec)

    def env(
        self, *, split: Split = "train", levels: Sequence[str] = (), render_mode: str | None = None
    ) -> ForeignEnv:
        assert self.spec.gym is not None
        options: dict[str, Any] = {} if render_mode is None else {"render_mode": render_mode}
        try:
            inner = gymnasium.make(self.spec.gym, **options)
        except (gymnasium.error.Error, ImportError) as error:
            raise SpecError(
                f"{self.spec.path}: gym: cannot make '{self.spec.gym}': {error}"
            ) from error
        return ForeignEnv(inner, self, split)

    def close(self) -> None:
        """Do nothing; the environments share no resources."""


class ForeignEnv(gymnasium.Wrapper):
    """Wrapper that adds task ids, the environment's id and the final success, which `play` uses."""

    def __init__(self, env: gymnasium.Env, world: ForeignWorld, split: Split):
        super().__init__(env)
        self.world = world
        self.split = split
        self._rng = random.Random(0)
        self._total = 0.0
        self._turns = 0
        self._horizon = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        # Rewards of a foreign environment have no schedules, so the training step is dropped.
        options = {name: value for name, value in (options or {}).items() if name != "step"}
        split = options.pop("split", self.split)
        self._turns, self._horizon = 0, options.pop("max_turns", None) or 0
        if seed is not None:
            self._rng = random.Random(seed)
        task_id = options.pop("task", None) or self.world.tasks.draw_id(split, self._rng)
        observation, info = self.env.reset(
            seed=self.world.tasks.seed_of(task_id), options=options or None
        )
        self._total = 0.0
        if not isinstance(observation, str):
            got = type(observation).__name__
            raise UsageError(
                f"environment '{self.world.spec.gym}': observations must be text (str), got {got}"
            )
        task = {"id": task_id, "split": task_id.split("/")[0], "level": "", "template": "seed"}
        return observation, info | {"task": task, "env_id": self.world.spec.id}

    def step(self, action: str) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._total += float(reward)
        self._turns += 1
        cut = self._turns == self._horizon and not (terminated or truncated)
        if terminated or truncated or cut:
            solved = self._total >= self.world.spec.episode.success_reward
            info = info | {"success": bool(info.get("success", info.get("is_success", solved)))}
        if cut:  # whether an unsolved task would have been solved later is unknown
            return (
                observation,
                float(reward),
                False,
                True,
                info | {"success": info["success"] or None, "stop_reason": "horizon"},
            )
        return observation, float(reward), terminated, truncated, info
