"""A company's tools and tasks as a Gymnasium text environment.

    reset(seed=, options={"task": "test/set_phone/3"})  ->  the user's message
    step("update_contact(...)")                         ->  the tools' answers
    step("Done.")                                       ->  the end, and the reward

See `ToolEnv.step` for the reasons that end an episode.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import gymnasium

from envgym.dialects import parse, usage_example
from envgym.errors import SpecError, UsageError, WorldFailure, did_you_mean
from envgym.messages import Message, ToolCall
from envgym.rewards.rubric import CallRecord, Evidence, Rubric
from envgym.rewards.state_diff import compare_changes, diff_rows
from envgym.rewards.turn_rewards import TurnRewards
from envgym.sandbox import Sandbox, Session, Verification
from envgym.sandbox.agent.file_tree import TABLE as FILES
from envgym.spaces import UnicodeText
from envgym.spec.environment import EnvSpec
from envgym.tasks import SPLITS, Check, Split, Task
from envgym.tasksets.templates import TemplateTaskSet
from envgym.tool_sandbox import keys_of, open_tool_sandbox
from envgym.tools import Tool, render_compact, to_openai, tools_from, unknown_tool, validate

OWN_DOING = ("session_ended", "out_of_memory")
"""Failure kinds that are attributed to the model if the tools execute code that it wrote."""
RESET_OPTIONS = ("task", "split", "levels", "max_turns", "step")


class World:
    """Sandbox, tools, tasks and rubric of one environment, shared by its episodes. Thread-safe."""

    def __init__(self, spec: EnvSpec, *, sandbox: Sandbox | None = None):
        self.spec = spec
        self.rubric = Rubric.from_spec(spec)
        self.exact = (FILES,) if spec.state.files else ()
        self.sandbox = sandbox or open_tool_sandbox(spec)
        try:
            self._read_tasks(spec)
        except BaseException:
            self.close()
            raise

    def _read_tasks(self, spec: EnvSpec) -> None:
        self.tasks = TemplateTaskSet(spec, self.sandbox)
        self.keys = keys_of(spec, self.tasks.schema_sql)
        self.tools = tools_from(self.sandbox.describe())
        unknown = [name for name in spec.episode.closes_with if name not in self.tools]
        if unknown:
            hint = did_you_mean(unknown[0], self.tools)
            raise SpecError(
                f"{spec.path}: episode.closes_with: no tool '{unknown[0]}'{hint}; "
                f"tools: {', '.join(self.tools)}"
            )

        if (refusal := spec.episode.refusal) is None:
            return
        if refusal.tool not in self.tools:
            hint = did_you_mean(refusal.tool, self.tools)
            raise SpecError(
                f"{spec.path}: episode.refusal.tool: no tool '{refusal.tool}'{hint}; tools: {', '.join(self.tools)}"
            )
        if problems := validate(self.tools[refusal.tool], refusal.arguments):
            raise SpecError(f"{spec.path}: episode.refusal.arguments: {'; '.join(problems)}")

    def tools_of(self, task: Task) -> dict[str, Tool]:
        """Return the tools that a task offers, in the order of the environment."""
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
        system = prompt.system.strip().replace("{now}", f"{self.spec.state.now:%A, %Y-%m-%d %H:%M}")
        if prompt.tools == "compact":
            listing = render_compact(list(self.tools_of(task).values()))
            system = f"{system}\n\nTools:\n{listing}\n\n{usage_example(prompt.dialects[0])}"
        return [Message("system", system), Message("user", task.prompt)]

    def env(self, **options: Any) -> ToolEnv:
        """Create an environment in this world. The options are those of `ToolEnv`."""
        return ToolEnv(self.spec, world=self, **options)

    def close(self) -> None:
        self.rubric.close()
        self.sandbox.close()


class ToolEnv(gymnasium.Env[str, str]):
    """Environment that plays one episode at a time in a `World`.

    Args:
        spec: Definition of the environment.
        split: Default split from which `reset` draws tasks.
        levels: Default levels of the tasks drawn; empty for all.
        world: World shared with other environments. By default the environment creates and closes a
            world.
        render_mode: If `ansi`, `render()` returns the current conversation as text.
    """

    metadata = {"render_modes": ["ansi"], "render_fps": 4}  # noqa: RUF012 - Gymnasium's own convention

    def __init__(
        self,
        spec: EnvSpec,
        *,
        split: Split = "train",
        levels: Sequence[str] = (),
        world: World | None = None,
        render_mode: str | None = None,
    ):
        if split not in SPLITS:
            raise UsageError(
                f"split is '{split}'{did_you_mean(split, SPLITS)} Available: {', '.join(SPLITS)}"
            )
        self.observation_space = UnicodeText()
        self.action_space = UnicodeText()
        self.render_mode = render_mode
        self.split, self.levels = split, tuple(levels)
        self._owned = world is None
        self.world = world or World(spec)
        self._session: Session | None = None
        self._task: Task | None = None
        self._over = True

    @property
    def task(self) -> Task | None:
        """Current task, hidden truth included. For oracles and graders only, never for a model."""
        return self._task

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
            The user's message and `info`, with the keys `messages`, `tools`, `task`, `state_hash`
            and `given_up` (the reward terms of the episode if the policy aborts it).

        Raises:
            WorldFailure: If no sandbox session can be opened.
            SpecError: If the task or a tool of it does not exist.
            UsageError: If an option is unknown or out of range.
        """
        super().reset(seed=seed)
        self._end_session()
        self._task = task = self.world.tasks.task(self._pick(options or {}))
        self._session = self.world.sandbox.open(
            seed=task.seed, timeout_seconds=self.world.spec.sandbox.open_seconds
        )
        self._tools = self.world.tools_of(task)
        self._messages = self.world.opening(task)
        self._calls: list[CallRecord] = []
        self._modes: dict[str, int] = {}
        self._said: list[str] = []
        self._turns, self._over, self._started = 0, False, time.monotonic()
        self._turn_limit = self.world.turn_limit(task)
        self._horizon = (options or {}).get("max_turns", self._turn_limit)
        self._training_step = (options or {}).get("step", 0)
        self._tally = TurnRewards(self.world.rubric, self._evidence, step=self._training_step)
        shown = (
            to_openai(list(self._tools.values()))
            if self.world.spec.prompt.tools == "template"
            else []
        )
        return task.prompt, {
            "messages": [message.to_dict() for message in self._messages],
            "tools": shown,
            "task": {
                "id": task.id,
                "split": task.split,
                "level": task.level,
                "template": task.template,
            },
            "env_id": self.world.spec.id,
            "state_hash": self._session.state_hash,
            "given_up": self.world.rubric.failure_terms(step=self._training_step),
        }

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Execute one answer of the model.

        An answer without a tool call, or a successful call of a closing tool, terminates the
        episode. The turn limit, or a lower `max_turns` given to `reset`, truncates it. If the
        environment itself fails, the step is truncated, `info["failure"]` is set and the reward 0.0
        must be ignored.

        Args:
            action: Text of the answer.

        Returns:
            Observation (the tools' answers; empty at the end), reward, terminated, truncated and
            `info`. The reward is paid at the end, except for parts that are evaluated per turn.
            `info` has `messages` (the new ones), `parse_mode` and `mistakes` (invalid or rejected
            calls of this turn). At the end it also has `reward_parts`, `reward_terms` (`Term`s that
            sum to the reward), `success`, `state_diff`, `verification` (exit code and output of the
            task's hidden test) and `stop_reason`.

        Raises:
            gymnasium.error.ResetNeeded: If the episode is over.
        """
        if self._over or self._session is None:
            raise gymnasium.error.ResetNeeded("this episode is over: call reset() first")
        try:
            return self._take(action, self._session)
        except WorldFailure as failure:
            self._finish()
            if self.world.spec.sandbox.executes_code and failure.kind in OWN_DOING:
                return self._broken_off(failure)
            told = {"kind": failure.kind, "stage": failure.stage, "message": failure.message}
            return "", 0.0, False, True, {"messages": [], "failure": told, "stop_reason": "void"}

    def _broken_off(self, failure: WorldFailure) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Return the final step after the model's code terminated the session.

        The episode counts as failed, not as void: otherwise a model could discard bad episodes by
        crashing the sandbox.
        """
        reward, score = self._tally.give_up()
        info = {"messages": [], "success": False, "state_diff": {}, "stop_reason": "broken_off"}
        info |= {"reward_parts": score.parts, "reward_terms": score.terms}
        info["mistakes"] = self._mistakes("") + 1
        calls = {
            "tool_calls": len(self._calls) + 1,
            "tool_errors": sum(not record.ok for record in self._calls) + 1,
        }
        return f"error: {failure.message}", reward, True, False, info | calls

    def _take(self, action: str, session: Session) -> tuple[str, float, bool, bool, dict[str, Any]]:
        spec = self.world.spec
        if (
            spec.episode.timeout_seconds
            and time.monotonic() - self._started > spec.episode.timeout_seconds
        ):
            raise WorldFailure(
                "timeout",
                f"the episode took more than {spec.episode.timeout_seconds:g} s",
                stage="step",
            )
        self._turns += 1
        self._messages.append(Message("assistant", action))
        self._said.append(action)
        parsed = parse(action, spec.prompt.dialects, known=self._tools)
        self._modes[parsed.mode] = self._modes.get(parsed.mode, 0) + 1
        if parsed.mode == "none":
            return self._end("answered", action, parsed.mode, [], session)
        if parsed.mode == "invalid":
            answers = [Message("tool", f"error: {parsed.problem}")]
        else:
            answers = [
                self._call(call, session)
                for call in parsed.calls[: spec.episode.max_calls_per_turn]
            ]
            if dropped := len(parsed.calls) - len(answers):
                limit = spec.episode.max_calls_per_turn
                answers.append(
                    Message(
                        "tool", f"error: {dropped} calls were not made; at most {limit} in one turn"
                    )
                )
        self._messages += answers
        if any(
            record.ok and record.call.name in spec.episode.closes_with for record in self._calls
        ):
            return self._end("closed", "", parsed.mode, answers, session)
        if self._turns >= self._turn_limit:
            return self._end("max_turns", "", parsed.mode, answers, session)
        if self._turns >= self._horizon:
            return self._end("horizon", "", parsed.mode, answers, session)
        info = {"messages": [message.to_dict() for message in answers], "parse_mode": parsed.mode}
        info["mistakes"] = self._mistakes(parsed.mode)
        return (
            "\n".join(message.content for message in answers),
            self._tally.turn(),
            False,
            False,
            info,
        )

    def _call(self, call: ToolCall, session: Session) -> Message:
        tool = self._tools.get(call.name)
        if tool is None:
            return self._answer(call, False, f"error: {unknown_tool(call.name, self._tools)}")
        if problems := validate(tool, call.arguments):
            return self._answer(call, False, f"error: {'; '.join(problems)}")
        spec = self.world.spec
        now = spec.state.now + timedelta(seconds=spec.state.step_seconds * len(self._calls))
        result = session.call(
            call.name,
            call.arguments,
            now=now.isoformat(),
            timeout_seconds=spec.episode.tool_seconds,
        )
        return self._answer(
            call, result.ok, result.text if result.ok else f"error: {result.text}", result.seconds
        )

    def _answer(self, call: ToolCall, ok: bool, text: str, seconds: float = 0.0) -> Message:
        limit = self.world.spec.episode.observation_chars
        if len(text) > limit:
            text = f"{text[:limit]} [cut: {len(text) - limit} more characters]"
        self._calls.append(CallRecord(self._turns, call, ok, text, seconds))
        return Message("tool", text, name=call.name)

    def _mistakes(self, mode: str) -> int:
        """Return the number of invalid or rejected calls of the turn just taken."""
        return sum(record.turn == self._turns and not record.ok for record in self._calls) + (
            mode == "invalid"
        )

    def _end(
        self, reason: str, final: str, mode: str, answers: list[Message], session: Session
    ) -> tuple[str, float, bool, bool, dict[str, Any]]:
        evidence = self._evidence(final)  # before the hidden test, which may leave files
        verification = self._verify(evidence.task.check, session) if evidence.task.check else None
        evidence = replace(evidence, verification=verification)
        reward, score = self._tally.end(evidence)
        self._finish()
        checked = {"verification": {"exit_code": verification.exit_code}} if verification else {}
        info = {
            "messages": [message.to_dict() for message in answers],
            "parse_mode": mode,
            "mistakes": self._mistakes(mode),
            "reward_parts": score.parts,
            "reward_terms": score.terms,
            "success": score.success or (None if reason == "horizon" else False),
            "state_diff": evidence.verdict.to_dict() | checked,
            "verification": verification
            and {"exit_code": verification.exit_code, "output": verification.output},
            "stop_reason": reason,
            "tool_calls": len(self._calls),
            "tool_errors": sum(not record.ok for record in self._calls),
        }
        cut = reason in ("max_turns", "horizon")
        return "\n".join(message.content for message in answers), reward, not cut, cut, info

    def _evidence(self, final: str = "") -> Evidence:
        """Return the current evidence of the episode, without the result of the hidden test."""
        state = self.world.spec.state
        task = self._task
        session = self._session
        assert task is not None
        assert session is not None
        changes = session.diff(timeout_seconds=self.world.spec.episode.tool_seconds)
        rows = diff_rows(changes, self.world.keys, volatile=state.volatile, exact=self.world.exact)
        verdict = compare_changes(task.changes, rows, allow=state.allow, forbid=state.forbid)
        return Evidence(
            task,
            tuple(self._calls),
            tuple(rows),
            verdict,
            final,
            self._turns,
            dict(self._modes),
            said=tuple(self._said),
            step=self._training_step,
        )

    def _verify(self, check: Check, session: Session) -> Verification:
        return session.verify(check.files, check.command, timeout_seconds=check.timeout_seconds)

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
        self._over = True
        self._end_session()

    def _end_session(self) -> None:
        # Clear the attribute first, so that a session that fails to close cannot affect the next
        # episode.
        session = self._session
        self._session = None
        if session is not None:
            session.close()

    def render(self) -> str | None:  # type: ignore[override]
        """Return the current conversation if the render mode is `ansi`."""
        if self.render_mode != "ansi":
            return None
        return "\n".join(
            f"[{message.role}] {message.content}" for message in getattr(self, "_messages", [])
        )

    def close(self) -> None:
        self._end_session()
        if self._owned:
            self.world.close()
