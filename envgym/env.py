"""A company's tools and tasks as a Gymnasium text environment.

reset(seed=, options={"task": "test/set_phone/3"})  ->  the user's message
step("update_contact(...)")                         ->  the tools' answers
step("Done.")                                       ->  the end, and the reward
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, cast

import gymnasium

from envgym.dialects import usage_example
from envgym.errors import SpecError, UsageError, WorldFailure, did_you_mean
from envgym.failures import FaultLog
from envgym.messages import Message
from envgym.replaying import FailureJudge
from envgym.rewards.rubric import Rubric
from envgym.rewards.table_columns import read_columns
from envgym.sandbox import Sandbox, Session
from envgym.spaces import UnicodeText
from envgym.spec.environment import EnvSpec
from envgym.spec.late_values import with_values
from envgym.tasks import SPLITS, Split, Task
from envgym.tasksets.templates import TemplateTaskSet
from envgym.tool_episode import ToolEpisode
from envgym.tool_sandbox import open_tool_sandbox, read_primary_keys
from envgym.tools import Tool, to_openai, tools_from, tools_section, validate
from envgym.world import AbortReason, ResetInfo, StepResult

RESET_OPTIONS = ("task", "split", "levels", "max_turns", "step")


class ToolWorld:
    """World of an environment with tools: sandbox, tools, tasks and rubric. Thread-safe.

    Args:
        spec: Definition of the environment.
        sandbox: Sandbox to use. By default the world opens one; it closes either.

    Raises:
        SpecError: If the tools, the tasks and the settings do not fit together.
        PrerequisiteError: If something must be installed or started first.
    """

    def __init__(self, spec: EnvSpec, *, sandbox: Sandbox | None = None):
        self.spec = spec = with_values(spec, spec.places)
        self.rubric = Rubric.from_spec(spec)
        self.faults = FaultLog(spec.id)
        self.sandbox = sandbox or open_tool_sandbox(spec)
        self.judge = FailureJudge(self.sandbox, spec.sandbox)
        try:
            self._read_tasks(spec)
        except BaseException:
            self.close()
            raise

    def _read_tasks(self, spec: EnvSpec) -> None:
        self.tasks = TemplateTaskSet(spec, self.sandbox)
        self.keys = read_primary_keys(spec, self.tasks.schema_sql)
        self.columns = read_columns(self.tasks.schema_sql)
        self.tools = tools_from(self.sandbox.describe())
        for name in spec.episode.closing_tools:
            self._check_tool(name, "episode.closing_tools")
        if (refusal := spec.episode.refusal) is None:
            return
        self._check_tool(refusal.tool, "episode.refusal.tool")
        if problems := validate(self.tools[refusal.tool], refusal.arguments):
            raise SpecError(f"{spec.path}: episode.refusal.arguments: {'; '.join(problems)}")

    def _check_tool(self, name: str, key: str) -> None:
        if name not in self.tools:
            raise SpecError(
                f"{self.spec.path}: {key}: no tool '{name}'{did_you_mean(name, self.tools)}; "
                f"tools: {', '.join(self.tools)}"
            )

    def tools_of(self, task: Task) -> dict[str, Tool]:
        """Return the tools that a task offers, in the order of the environment.

        Raises:
            SpecError: If the task names a tool that does not exist.
        """
        if task.tools is None:
            return self.tools
        if unknown := [name for name in task.tools if name not in self.tools]:
            raise SpecError(
                f"task '{task.id}': no tool '{unknown[0]}'{did_you_mean(unknown[0], self.tools)}"
            )
        return {name: tool for name, tool in self.tools.items() if name in task.tools}

    def turn_limit(self, task: Task) -> int:
        """Return the number of answers after which an episode of this task is truncated."""
        limits = self.spec.episode
        if limits.spare_turns is None or not task.oracle:
            return limits.max_turns
        return min(limits.max_turns, len(task.oracle) + 1 + limits.spare_turns)

    def opening(self, task: Task) -> list[Message]:
        """Return the system message and the user message of a task."""
        prompt = self.spec.prompt
        system = prompt.system_message(self.spec.state.clock_start)
        if prompt.rendering != "native":
            usage = usage_example(prompt.dialects[0])
            system += tools_section(self.tools_of(task).values(), usage)
        return [Message("system", system), Message("user", task.prompt)]

    def env(
        self,
        *,
        split: Split = "train",
        levels: Sequence[str] = (),
        render_mode: str | None = None,
        owns_world: bool = False,
    ) -> ToolEnv:
        """Create an environment in this world; see `World.env`."""
        return ToolEnv(
            self, split=split, levels=levels, render_mode=render_mode, owns_world=owns_world
        )

    def close(self) -> None:
        """Close the judges and the sandbox."""
        self.rubric.close()
        self.sandbox.close()


class ToolEnv(gymnasium.Env[str, str]):
    """Environment that plays one episode at a time in a `ToolWorld`.

    Args:
        world: World that the environment shares with others.
        split: Default split from which `reset` draws tasks.
        levels: Default levels of the tasks drawn; empty for all.
        render_mode: If `ansi`, `render()` returns the current conversation as text.
        owns_world: Whether closing the environment closes the world.

    Raises:
        UsageError: If there is no such split.
    """

    metadata = {"render_modes": ["ansi"], "render_fps": 4}  # noqa: RUF012 - Gymnasium's convention

    def __init__(
        self,
        world: ToolWorld,
        *,
        split: Split = "train",
        levels: Sequence[str] = (),
        render_mode: str | None = None,
        owns_world: bool = False,
    ):
        if split not in SPLITS:
            raise UsageError(
                f"split is '{split}'{did_you_mean(split, SPLITS)} Available: {', '.join(SPLITS)}"
            )
        self.observation_space = UnicodeText()
        self.action_space = UnicodeText()
        self.render_mode = render_mode
        self.world = world
        self.split = split
        self.levels = tuple(levels)
        self._owns_world = owns_world
        self._session: Session | None = None
        self._task: Task | None = None
        self._episode: ToolEpisode | None = None
        self._over = True

    @property
    def task(self) -> Task | None:
        """Current task, hidden truth included. For oracles and graders only, never for a model."""
        return self._task

    @property
    def seconds_lost(self) -> float:
        """Seconds of the episode that the environment spent outside of tools."""
        return self._episode.seconds_lost if self._episode else 0.0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Start an episode.

        Args:
            seed: Seed of the environment's random generator, which draws the task.
            options: `task` selects one task; otherwise one is drawn, and `split` and `levels`
                override the defaults. `max_turns` truncates the episode before its usual limit
                (stop reason `horizon`, success unknown). `step` is the training step used by reward
                schedules, 0 by default.

        Returns:
            The user's message and `info`, a `ResetInfo`.

        Raises:
            WorldFailure: If no sandbox session can be opened.
            SpecError: If the task or a tool of it does not exist.
            UsageError: If an option is unknown or out of range.
        """
        super().reset(seed=seed)
        options = options or {}
        self._finish()
        world = self.world
        self._task = task = world.tasks.task(self._pick(options))
        self._session = world.sandbox.open(
            seed=task.seed, timeout_seconds=world.spec.sandbox.open_timeout_seconds
        )
        turn_limit = world.turn_limit(task)
        self._episode = ToolEpisode(
            spec=world.spec,
            rubric=world.rubric,
            keys=world.keys,
            columns=world.columns,
            task=task,
            tools=world.tools_of(task),
            messages=world.opening(task),
            session=self._session,
            turn_limit=turn_limit,
            horizon=options.get("max_turns", turn_limit),
            training_step=options.get("step", 0),
        )
        self._over = False
        info = self._reset_info(self._episode)
        return task.prompt, cast(dict[str, Any], info)

    def _reset_info(self, episode: ToolEpisode) -> ResetInfo:
        is_native = self.world.spec.prompt.rendering == "native"
        task = episode.task
        return {
            "messages": [message.to_dict() for message in episode.messages],
            "tools": to_openai(list(episode.tools.values())) if is_native else [],
            "task": {
                "id": task.id,
                "split": task.split,
                "level": task.level,
                "template": task.template,
            },
            "env_id": self.world.spec.id,
            "state_hash": episode.session.state_hash,
        }

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Execute one answer of the model.

        An answer without a tool call, or a successful call of a closing tool, terminates the
        episode; so does a call that makes the session unusable, with the failure reward. The turn
        limit, the time limit, or a lower `max_turns` given to `reset`, truncates it. If the
        environment itself fails, the step is truncated, `info["failure"]` is set and the reward 0.0
        must be ignored. `causes.py` separates the two. A trainer that stops stepping earlier must
        call `abort`.

        Args:
            action: Text of the answer.

        Returns:
            Observation (the tools' answers; empty at the end), reward, terminated, truncated and
            `info`, a `StepInfo`. The reward is paid at the end, except for parts that are evaluated
            per turn.

        Raises:
            gymnasium.error.ResetNeeded: If the episode is over.
        """
        episode = self._running()
        try:
            result = episode.step(action)
        except WorldFailure as failure:
            self._finish()
            again = (episode.task.seed, episode.made, episode.running)
            if self.world.judge.is_of_model(failure, *again):
                return _plain(episode.end_by_model(failure))
            return _plain(episode.end_by_world(failure))
        if result[2] or result[3]:
            self._finish()
        return _plain(result)

    def abort(self, reason: AbortReason, answer: str | None = None) -> StepResult:
        """End the running episode with the failure reward.

        A trainer that stops stepping (the context is full, the answer was cut, the run is
        cancelled) must call it, so that stopping is never better than failing. The reward is the
        failure reward minus the rewards already paid, and never positive.

        Args:
            reason: Reason of the trainer.
            answer: Text of the unfinished answer, which counts as a turn. None if no token of it
                was sampled.

        Returns:
            Empty observation, reward, terminated (False), truncated (True) and `info`, a `StepInfo`
            with all keys of an end.

        Raises:
            gymnasium.error.ResetNeeded: If no episode is running.
        """
        episode = self._running()
        self._finish()
        return episode.abort(reason, answer)

    def _running(self) -> ToolEpisode:
        if self._over or self._episode is None:
            raise gymnasium.error.ResetNeeded("this episode is over: call reset() first")
        return self._episode

    def _pick(self, options: dict[str, Any]) -> str:
        if unknown := set(options) - set(RESET_OPTIONS):
            word = sorted(unknown)[0]
            raise UsageError(f"reset: unknown option '{word}'{did_you_mean(word, RESET_OPTIONS)}")
        if options.get("max_turns", 1) < 1:
            raise UsageError(
                f"reset: max_turns is {options['max_turns']}; an episode has at least 1 turn"
            )
        if options.get("step", 0) < 0:
            raise UsageError(f"reset: step is {options['step']}; training begins at step 0")
        if "task" in options:
            return options["task"]
        rng = random.Random(int(self.np_random.integers(2**62)))
        return self.world.tasks.draw_id(
            options.get("split", self.split), rng, levels=options.get("levels", self.levels)
        )

    def _finish(self) -> None:
        """Mark the episode as over, close its session and report failures of tools."""
        self._over = True
        if self._episode is not None:
            self.world.faults.report(self._episode.faults)
        # A session that fails to close must not affect the next episode.
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def render(self) -> str | None:  # type: ignore[override]
        """Return the current conversation if the render mode is `ansi`."""
        if self.render_mode != "ansi":
            return None
        messages = self._episode.messages if self._episode else []
        return "\n".join(f"[{message.role}] {message.content}" for message in messages)

    def close(self) -> None:
        """Close the session, and the world if the environment owns it."""
        self._finish()
        if self._owns_world:
            self.world.close()


def _plain(result: StepResult) -> tuple[str, float, bool, bool, dict[str, Any]]:
    """Return the result with the type that Gymnasium declares; a TypedDict is a dict."""
    return cast(tuple[str, float, bool, bool, dict[str, Any]], result)
