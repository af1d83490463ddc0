"""Record of an episode under construction, filled by `play`."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from envgym.episode import Episode, Failure
from envgym.errors import EnvgymError, Stage, WorldFailure
from envgym.messages import Message
from envgym.policies import Completion, Dialogue, StopReason, TokenTrace
from envgym.sandbox.agent.errors import tail_of
from envgym.text import clean

ENV_RAISED = "env_raised"
"""Failure kind of an exception that the code of an environment raised, except an `EnvgymError`."""
POLICY_FAILED = "policy_failed"
"""Failure kind of a policy: its server or its engine failed, or its code raised an exception."""
EPISODE_FAILED = "episode_failed"
"""Failure kind of any other exception while an episode was played or recorded."""

log = logging.getLogger(__name__)


@dataclass
class EpisodeRecorder:
    """Collects the messages, rewards and times of one episode, and returns its record."""

    seed: int
    messages: list[Message] = field(default_factory=list)
    answers: list[Message] = field(default_factory=list)
    """Messages of the environment at the last turn."""
    task: dict[str, Any] = field(default_factory=dict)
    reward: float = 0.0
    turns: int = 0
    turn_rewards: list[float] = field(default_factory=list)
    turn_invalid_calls: list[int] = field(default_factory=list)
    turn_stops: list[StopReason] = field(default_factory=list)
    start_hash: str = ""
    env_id: str = ""
    dialects: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=lambda: {"policy": 0.0, "env": 0.0})
    dialogue: Dialogue | None = None

    def timed(self, place: str, function: Callable, *arguments: Any, **keywords: Any) -> Any:
        """Call a function and add its duration to the seconds of a place."""
        start = time.perf_counter()
        try:
            return function(*arguments, **keywords)
        finally:
            self.seconds[place] += time.perf_counter() - start

    def call_env(self, stage: Stage, function: Callable, *arguments: Any, **keywords: Any) -> Any:
        """Call environment code, timed, and turn its exceptions into WorldFailure.

        An `EnvgymError` is passed on unchanged.
        """
        try:
            return self.timed("env", function, *arguments, **keywords)
        except (EnvgymError, KeyboardInterrupt):
            raise
        except BaseException as error:  # code of others may call sys.exit()
            raise WorldFailure(ENV_RAISED, tail_of(error), stage=stage) from error

    def call_policy(self, function: Callable, *arguments: Any, **keywords: Any) -> Any:
        """Call policy code, timed, and turn its exceptions into WorldFailure.

        An `EnvgymError` is passed on unchanged.
        """
        try:
            return self.timed("policy", function, *arguments, **keywords)
        except (EnvgymError, KeyboardInterrupt):
            raise
        except BaseException as error:
            raise WorldFailure(POLICY_FAILED, tail_of(error), stage="policy") from error

    def opened(self, observation: str, info: dict[str, Any]) -> None:
        """Record the result of `reset`."""
        given = info.get("messages")
        self.messages = (
            [Message.from_dict(m) for m in given] if given else [Message("user", str(observation))]
        )
        task = info.get("task")  # a foreign environment may use this key differently
        self.task = dict(task) if isinstance(task, Mapping) else {}
        self.start_hash = str(info.get("state_hash", ""))
        self.env_id = str(info.get("env_id", ""))

    def stepped(
        self, answer: Completion, reward: Any, observation: str, info: dict[str, Any]
    ) -> None:
        """Record one answer of the policy and the result of `step` for it."""
        value = _number(reward)
        self._answered(answer)
        self.reward += value
        self.turn_rewards.append(value)
        invalid = info.get("invalid_calls")  # a foreign environment may use this key differently
        self.turn_invalid_calls.append(invalid if isinstance(invalid, int) else 0)
        given = info.get("messages")
        shown = [Message("user", str(observation))] if str(observation) else []
        self.answers = [Message.from_dict(m) for m in given] if given is not None else shown
        self.messages += self.answers
        if dialect := info.get("dialect"):
            self.dialects[dialect] = self.dialects.get(dialect, 0) + 1

    def aborted(self, answer: Completion | None, reward: Any) -> None:
        """Record the reward of `abort`: at the unfinished answer, or at the last turn without
        one."""
        if answer is not None:
            self._answered(answer)
            self.turn_rewards.append(0.0)
            self.turn_invalid_calls.append(0)
        value = _number(reward)
        self.reward += value
        if self.turn_rewards:
            self.turn_rewards[-1] += value

    def _answered(self, answer: Completion) -> None:
        self.turns += 1
        self.turn_stops.append(answer.stop_reason)
        self.messages.append(Message("assistant", answer.text))

    def ended(
        self, reason: str, *, terminated: bool, truncated: bool, info: dict[str, Any]
    ) -> Episode:
        """Return the record of an episode that ended."""
        return self._episode(
            reward=self.reward,
            tokens=self._tokens(),
            reward_parts=info.get("reward_parts", {}),
            reward_terms=info.get("reward_terms", {}),
            success=info.get("success"),
            state_diff=info.get("state_diff", {}),
            stop_reason=clean(str(reason)),
            terminated=terminated,
            truncated=truncated,
            tool_calls=info.get("tool_calls", 0),
            tool_errors=info.get("tool_errors", 0),
            tool_failures=info.get("tool_failures", 0),
            tool_faults=tuple(info.get("tool_faults", ())),
        )

    def void(self, failure: WorldFailure, task: str | None) -> Episode:
        """Return the record of an episode in which the environment failed."""
        self.task = self.task or {"id": task or ""}
        kept = Failure(failure.kind, failure.stage, failure.message)
        try:
            tokens = self._tokens()
        except KeyboardInterrupt:
            raise
        except BaseException:  # the dialogue may be what failed
            tokens = None
        return self._episode(
            reward=None, success=None, stop_reason="void", failure=kept, tokens=tokens
        )

    def _tokens(self) -> TokenTrace | None:
        return self.dialogue.trace() if self.dialogue is not None else None

    def _episode(self, **end: Any) -> Episode:
        task = self.task
        return Episode(
            env_id=self.env_id,
            task_id=clean(str(task.get("id", ""))),
            split=clean(str(task.get("split", ""))),
            level=clean(str(task.get("level", ""))),
            template=clean(str(task.get("template", ""))),
            seed=self.seed,
            messages=tuple(self.messages),
            turns=self.turns,
            turn_rewards=tuple(self.turn_rewards),
            turn_invalid_calls=tuple(self.turn_invalid_calls),
            turn_stops=tuple(self.turn_stops),
            dialects=dict(self.dialects),
            start_hash=self.start_hash,
            seconds=dict(self.seconds),
            **end,
        )

    def close(self) -> None:
        """Close the dialogue. Never raises: the record is complete."""
        if self.dialogue is not None:
            try:
                self.dialogue.close()
            except KeyboardInterrupt:
                raise
            except BaseException:
                log.warning("a dialogue could not be closed", exc_info=True)


def _number(reward: Any) -> float:
    """Convert a reward to float. Raise WorldFailure if it is not a finite number.

    One NaN would make the advantages of the whole group NaN.
    """
    try:
        value = float(reward)
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise WorldFailure(
            "reward_raised",
            f"step gave the reward {reward!r}, which is no finite number",
            stage="score",
        )
    return value
