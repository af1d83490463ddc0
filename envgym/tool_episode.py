"""One running episode of a `ToolEnv`: parse answers, call tools, collect evidence, pay rewards."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta

from envgym.dialects import parse
from envgym.errors import WorldFailure
from envgym.messages import Message, ToolCall
from envgym.replaying import MadeCall, Request
from envgym.rewards.evidence import CallRecord, Evidence
from envgym.rewards.row_pairs import RowDiff, diff_rows
from envgym.rewards.rubric import Rubric, Score
from envgym.rewards.state_diff import compare_changes
from envgym.rewards.table_columns import Columns, Keys
from envgym.rewards.turn_rewards import TurnRewards
from envgym.sandbox import RowChanges, Session, ToolResult, Verification
from envgym.sandbox.agent.work_folder import TABLE as FILES
from envgym.secrets import redact
from envgym.spec.environment import EnvSpec
from envgym.tasks import Task
from envgym.tool_sandbox import can_hide_writes
from envgym.tools import Tool, unknown_tool, validate
from envgym.world import (
    ABORT_STOPS,
    AbortReason,
    EpisodeStop,
    FailureInfo,
    StepInfo,
    StepResult,
)


@dataclass
class ToolEpisode:
    """Episode from `reset` to its end. It uses the session but does not close it.

    Raises:
        WorldFailure: If a reward part that is evaluated at the start fails.
    """

    spec: EnvSpec
    rubric: Rubric
    keys: Keys
    """Columns of the primary key of each table."""
    columns: Mapping[str, Columns]
    """Columns of each table of the schema."""
    task: Task
    tools: dict[str, Tool]
    """Tools that the task offers."""
    messages: list[Message]
    """Opening messages; every later message is appended."""
    session: Session
    turn_limit: int
    """Number of answers after which the episode is truncated with stop reason `max_turns`."""
    horizon: int
    """Number of answers after which it is truncated with stop reason `horizon`."""
    training_step: int = 0
    """Training step, used by reward schedules."""
    calls: list[CallRecord] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)
    """Text of each answer."""
    dialects: dict[str, int] = field(default_factory=dict)
    """Number of answers by dialect."""
    written: set[str] = field(default_factory=set)
    """Forbidden tables that a call wrote to, even if it was undone later."""
    turns: int = 0
    started: float = field(default_factory=time.monotonic)
    made: list[Request] = field(default_factory=list)
    """Requests that changed the session, in order; a replay repeats them."""
    running: Request | None = None
    """Request that is sent now, or that failed."""
    seconds_lost: float = 0.0
    """Seconds that the environment spent outside of tools."""

    def __post_init__(self) -> None:
        self._not_made = 0
        self._rewards = TurnRewards(self.rubric, self._evidence, step=self.training_step)

    def step(self, action: str) -> StepResult:
        """Execute one answer; see `ToolEnv.step`.

        Raises:
            WorldFailure: If the environment fails.
        """
        self.turns += 1
        self.messages.append(Message("assistant", action))
        action = self.messages[-1].content  # cleaned
        self.answers.append(action)
        if self._is_over_time():
            return self._end("timeout", "", "", [])
        parsed = parse(action, self.spec.prompt.dialects, known=self.tools)
        self.dialects[parsed.mode] = self.dialects.get(parsed.mode, 0) + 1
        if parsed.mode == "none":
            return self._end("answered", action, parsed.mode, [])
        if parsed.mode == "invalid":
            replies = [Message("tool", f"error: {parsed.problem}")]
        else:
            replies = self._make(parsed.calls)
        self.messages += replies
        if stop := self._stop_after_calls():
            return self._end(stop, "", parsed.mode, replies)
        info: StepInfo = {
            "messages": [message.to_dict() for message in replies],
            "dialect": parsed.mode,
            "invalid_calls": self._invalid_calls(parsed.mode),
        }
        return _joined(replies), self._rewards.turn(), False, False, info

    def abort(self, reason: AbortReason, answer: str | None) -> StepResult:
        """End the episode with the failure reward; see `Env.abort`."""
        if answer is not None:
            self.turns += 1
            self.messages.append(Message("assistant", answer))
        reward, score = self._rewards.abort(in_turn=answer is not None)
        info = self._failed_info(ABORT_STOPS[reason], score)
        # No part was evaluated: the terms hold the minimum of each part.
        info["reward_parts"] = dict.fromkeys(self.rubric.parts)
        return "", reward, False, True, info

    def end_by_model(self, failure: WorldFailure) -> StepResult:
        """Return the final step after the model has made its session unusable.

        The episode counts as failed, not as void: otherwise a model could discard bad episodes by
        crashing the sandbox.
        """
        reward, score = self._rewards.fail()
        info = self._failed_info("sandbox_ended", score)
        info["invalid_calls"] = self._invalid_calls("") + 1
        if failure.stage == "call":
            info["tool_calls"] = len(self.calls) + 1
        info["tool_errors"] = info.get("tool_errors", 0) + 1
        return f"error: {failure.message}", reward, True, False, info

    def end_by_world(self, failure: WorldFailure) -> StepResult:
        """Return the final step of an episode that is void."""
        described: FailureInfo = {
            "kind": failure.kind,
            "stage": failure.stage,
            "message": failure.message,
        }
        info: StepInfo = {"messages": [], "failure": described, "stop_reason": "void"}
        return "", 0.0, False, True, info | self._counts()

    @property
    def faults(self) -> list[str]:
        """Different failures of tools, each with file and line."""
        return list(dict.fromkeys(record.fault for record in self.calls if record.fault))

    def _is_over_time(self) -> bool:
        """Return whether the time limit of the episode is over, without the world's own time."""
        limit = self.spec.episode.timeout_seconds
        spent = time.monotonic() - self.started - self.seconds_lost
        return limit is not None and spent > limit

    def _make(self, calls: tuple[ToolCall, ...]) -> list[Message]:
        """Make the calls of one answer, up to the limit, and return a message for each.

        No call is made after a closing one. A call that is not made counts as rejected.
        """
        limit = self.spec.episode.max_calls_per_turn
        replies: list[Message] = []
        why = f"at most {limit} in one turn"
        for call in calls[:limit]:
            replies.append(self._call(call))
            if self._is_closed():
                why = f"'{call.name}' ended the episode"
                break
        if dropped := calls[len(replies) :]:
            text = f"error: {len(dropped)} calls were not made; {why}"
            self.calls += [CallRecord(self.turns, call, False, text) for call in dropped]
            self._not_made += len(dropped)
            replies.append(Message("tool", text))
        return replies

    def _is_closed(self) -> bool:
        closing = self.spec.episode.closing_tools
        return any(record.ok and record.call.name in closing for record in self.calls)

    def _call(self, call: ToolCall) -> Message:
        tool = self.tools.get(call.name)
        if tool is None:
            return self._reply(call, False, f"error: {unknown_tool(call.name, self.tools)}")
        if problems := validate(tool, call.arguments):
            return self._reply(call, False, f"error: {'; '.join(problems)}")
        result = self._send(call)
        self.written.update(result.writes)
        if self.spec.state.forbid and can_hide_writes(self.spec):
            self.written.update(row.table for row in self._changed_rows())
        text = result.text if result.ok else f"error: {result.text}"
        return self._reply(call, result.ok, text, result.seconds, result.fault)

    def _send(self, call: ToolCall) -> ToolResult:
        """Send a call to the session and return its result."""
        state = self.spec.state
        tick = len(self.calls) - self._not_made
        now = state.clock_start + timedelta(seconds=state.clock_step_seconds * tick)
        self.running = MadeCall(
            call.name, call.arguments, now.isoformat(), self.spec.episode.tool_timeout_seconds
        )
        started = time.monotonic()
        result = self.running.send(self.session)
        self.seconds_lost += max(0.0, time.monotonic() - started - result.seconds)
        self.made.append(self.running)
        return result

    def _reply(
        self, call: ToolCall, ok: bool, text: str, seconds: float = 0.0, fault: str = ""
    ) -> Message:
        text = redact(text)
        limit = self.spec.episode.max_observation_chars
        if len(text) > limit:
            text = f"{text[:limit]} [cut: {len(text) - limit} more characters]"
        self.calls.append(CallRecord(self.turns, call, ok, text, seconds, redact(fault)))
        return Message("tool", text, name=call.name)

    def _stop_after_calls(self) -> EpisodeStop | None:
        """Return the reason to end the episode after the calls of an answer, or None."""
        if self._is_closed():
            return "closed"
        if self.turns >= self.turn_limit:
            return "max_turns"
        return "horizon" if self.turns >= self.horizon else None

    def _invalid_calls(self, dialect: str) -> int:
        """Return the number of invalid or rejected calls of the current turn."""
        rejected = sum(record.turn == self.turns and record.is_rejected for record in self.calls)
        return rejected + (dialect == "invalid")

    def _end(
        self, reason: EpisodeStop, final: str, dialect: str, replies: list[Message]
    ) -> StepResult:
        evidence = self._evidence(final, self._final_changes())
        verification = self._verify()
        evidence = replace(evidence, verification=verification)
        reward, score = self._rewards.end(evidence)
        diff = evidence.verdict.to_dict()
        if verification:
            diff |= {"verification": {"exit_code": verification.exit_code}}
        info: StepInfo = {
            "messages": [message.to_dict() for message in replies],
            "dialect": dialect,
            "invalid_calls": self._invalid_calls(dialect),
            "stop_reason": reason,
            "success": score.success or (None if reason == "horizon" else False),
            "reward_parts": score.parts,
            "reward_terms": score.terms,
            "state_diff": diff,
            "verification": verification
            and {"exit_code": verification.exit_code, "output": verification.output},
            **self._counts(),
        }
        truncated = reason in ("max_turns", "horizon", "timeout")
        return _joined(replies), reward, not truncated, truncated, info

    def _final_changes(self) -> RowChanges:
        """End the session's processes and return the final changes, for the diff and the test."""
        limit = self.spec.episode.tool_timeout_seconds
        keep = self.task.check is not None
        return self._read(lambda session: session.finish(timeout_seconds=limit, keep_files=keep))

    def _read(self, request: Callable[[Session], RowChanges]) -> RowChanges:
        """Return the changes that a request reads."""
        self.running = request
        started = time.monotonic()
        changes = request(self.session)
        self.seconds_lost += time.monotonic() - started
        return changes

    def _failed_info(self, reason: EpisodeStop, score: Score) -> StepInfo:
        """Return the info of an end that is not graded: a failed episode without a state diff."""
        return {
            "messages": [],
            "invalid_calls": 0,
            "stop_reason": reason,
            "success": False,
            "reward_parts": score.parts,
            "reward_terms": score.terms,
            "state_diff": {},
            "verification": None,
            **self._counts(),
        }

    def _counts(self) -> StepInfo:
        """Return the counts of calls for the info of an end."""
        return {
            "tool_calls": len(self.calls),
            "tool_errors": sum(record.is_rejected for record in self.calls),
            "tool_failures": sum(bool(record.fault) for record in self.calls),
            "tool_faults": self.faults,
        }

    def _evidence(self, final: str = "", changes: RowChanges | None = None) -> Evidence:
        """Return the evidence of the episode, without the result of the hidden test.

        At the end `final` is the answer and `changes` are the final ones; before, they are read.
        """
        state = self.spec.state
        rows = self._changed_rows(changes)
        verdict = compare_changes(
            self.task.changes, rows, allow=state.allow, forbid=state.forbid, written=self.written
        )
        return Evidence(
            self.task,
            tuple(self.calls),
            tuple(rows),
            verdict,
            final,
            self.turns,
            dict(self.dialects),
            assistant_messages=tuple(self.answers),
            step=self.training_step,
        )

    def _changed_rows(self, changes: RowChanges | None = None) -> list[RowDiff]:
        state = self.spec.state
        if changes is None:
            limit = self.spec.episode.tool_timeout_seconds
            changes = self._read(lambda session: session.diff(timeout_seconds=limit))
        return diff_rows(
            changes,
            self.keys,
            volatile=state.volatile,
            exact=(FILES,) if state.files else (),
            free_text=state.free_text,
            columns=self.columns,
            tolerance=state.float_tolerance,
        )

    def _verify(self) -> Verification | None:
        if (check := self.task.check) is None:
            return None

        def verify(session: Session) -> Verification:
            options = {"timeout_seconds": check.timeout_seconds, "inputs": check.inputs}
            return session.verify(check.files, check.command, **options)

        self.running = verify
        return verify(self.session)


def _joined(messages: list[Message]) -> str:
    return "\n".join(message.content for message in messages)
