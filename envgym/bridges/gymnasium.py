"""World for any Gymnasium environment with text observations and actions.

Its tasks are seeds: task `train/seed/17` resets the environment with a seed derived from that id.
So the members of a group start from the same state, and held-out seeds are never trained on. Not
supported: other observation and action spaces.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any, cast

import gymnasium

from envgym.errors import SpecError, UsageError
from envgym.spec.environment import EnvSpec
from envgym.spec.late_values import with_values
from envgym.tasks import SPLITS, Split, Task, TemplateInfo, stable_seed
from envgym.world import ABORT_STOPS, AbortReason, StepResult

SEED_TEMPLATE = TemplateInfo("seed", "", SPLITS)
"""The only template of a foreign environment; it has no level."""


class SeedTaskSet:
    """Tasks of an environment that has only seeds: ids of the form `split/seed/index`.

    The tasks have no prompt and no hidden truth.
    """

    def __init__(self, spec: EnvSpec):
        self.spec = spec
        self.sizes: dict[Split, int | None] = {
            "train": None,
            "val": spec.tasks.val,
            "test": spec.tasks.test,
        }
        self.templates = {SEED_TEMPLATE.name: SEED_TEMPLATE}

    def ids(
        self, split: Split, *, levels: Sequence[str] = (), count: int | None = None
    ) -> list[str]:
        """Return the first `count` ids of a split. There are no levels, so `levels` is ignored.

        Raises:
            UsageError: If `count` is missing for train, which has no end.
        """
        count = self.sizes[split] if count is None else count
        if count is None:
            raise UsageError(f"the tasks of split '{split}' have no end; give a count")
        return [f"{split}/seed/{index}" for index in range(count)]

    def draw_id(
        self,
        split: Split,
        rng: random.Random,
        *,
        levels: Sequence[str] = (),
        weights: Mapping[str, float] | None = None,
    ) -> str:
        """Return a random task id: a new one for train, otherwise one of the fixed ids."""
        if split == "train":
            return f"train/seed/{rng.randrange(2**31)}"
        return rng.choice(self.ids(split))

    def task(self, task_id: str) -> Task:
        """Return the task with this id, which has only a seed."""
        seed = self.seed_of(task_id)
        split = cast(Split, task_id.partition("/")[0])
        return Task(task_id, "", seed, split, SEED_TEMPLATE.name)

    def templates_of(self, split: Split, *, levels: Sequence[str] = ()) -> list[TemplateInfo]:
        """Return the only template. It has no level, so `levels` is ignored."""
        return [SEED_TEMPLATE]

    def seed_of(self, task_id: str) -> int:
        """Return the seed with which a task resets the environment.

        Raises:
            SpecError: If the id is invalid.
        """
        split, _, index = task_id.partition("/seed/")
        if split not in SPLITS or not index.isdigit():
            raise SpecError(
                f"task '{task_id}': must look like split/seed/index, for example test/seed/0"
            )
        return stable_seed(self.spec.id, task_id)


class ForeignWorld:
    """World of a foreign Gymnasium environment: no tools, rubric or sandbox of ours."""

    def __init__(self, spec: EnvSpec):
        self.spec = spec = with_values(spec, spec.places)
        self.tasks = SeedTaskSet(spec)
        self.tools = {}
        self.rubric = None
        self.sandbox = None

    def env(
        self,
        *,
        split: Split = "train",
        levels: Sequence[str] = (),
        render_mode: str | None = None,
        owns_world: bool = False,
    ) -> ForeignEnv:
        """Create an environment. `owns_world` has no effect, because there is nothing to close.

        Raises:
            SpecError: If Gymnasium cannot make the environment.
        """
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


class ForeignEnv(gymnasium.Wrapper[str, str, str, str]):
    """Wrapper that adds task ids, the environment's id, the final success and `abort`."""

    def __init__(self, env: gymnasium.Env, world: ForeignWorld, split: Split):
        super().__init__(env)
        self.world = world
        self.split = split
        self._rng = random.Random(0)
        self._total = 0.0
        self._turns = 0
        self._horizon = 0
        self._over = True

    @property
    def task(self) -> None:
        """None: the tasks of a foreign environment have no hidden truth."""
        return None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Start an episode. `task`, `split` and `max_turns` are options of ours; see `ToolEnv`.

        Raises:
            SpecError: If the task id is invalid.
            UsageError: If the environment returns an observation that is no text.
        """
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
        self._over = False
        task = {"id": task_id, "split": task_id.split("/")[0], "level": "", "template": "seed"}
        return observation, info | {"task": task, "env_id": self.world.spec.id}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Take one step. A `max_turns` given to `reset` truncates it, with reason `horizon`."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        reward = float(reward)
        self._total += reward
        self._turns += 1
        cut = self._turns == self._horizon and not (terminated or truncated)
        self._over = terminated or truncated or cut
        if not self._over:
            return observation, reward, terminated, truncated, info
        solved = self._total >= self.world.spec.episode.success_reward
        success = bool(info.get("success", info.get("is_success", solved)))
        if not cut:
            return observation, reward, terminated, truncated, info | {"success": success}
        # It is unknown whether an unsolved task would have been solved later.
        info = info | {"success": success or None, "stop_reason": "horizon"}
        return observation, reward, False, True, info

    def abort(self, reason: AbortReason, answer: str | None = None) -> StepResult:
        """End the running episode; see `Env.abort`.

        The failure reward of a foreign environment is unknown, so the reward is 0.0 and there are
        no terms.
        """
        if self._over:
            raise gymnasium.error.ResetNeeded("this episode is over: call reset() first")
        self._over = True
        return (
            "",
            0.0,
            False,
            True,
            {
                "messages": [],
                "invalid_calls": 0,
                "stop_reason": ABORT_STOPS[reason],
                "success": False,
                "reward_parts": {},
                "reward_terms": {},
                "state_diff": {},
                "verification": None,
                "tool_calls": 0,
                "tool_errors": 0,
                "tool_failures": 0,
                "tool_faults": [],
            },
        )
