"""Play episodes: the interaction loop, a plain function that a worker thread runs to the end."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any

import gymnasium

from envgym.episode import Episode, Failure
from envgym.errors import EnvgymError, Stage, WorldFailure
from envgym.failures import FailureLimit
from envgym.messages import Message
from envgym.policies import Completion, Policy
from envgym.sandbox.agent.errors import tail_of
from envgym.terms import PENALTY, Term, total

log = logging.getLogger(__name__)

ENV_RAISED = "env_raised"
"""Failure kind of an exception that the code of an environment raised, except an `EnvgymError`."""


def play(
    env: gymnasium.Env,
    policy: Policy,
    *,
    seed: int,
    task: str | None = None,
    max_turns: int | None = None,
    step: int = 0,
) -> Episode:
    """Play one episode, from reset to its end.

    Args:
        env: Gymnasium environment with text observations and actions. If `info` has `messages`, the
            policy sees these; otherwise the observation is the user's message.
        policy: Policy that plays.
        seed: Seed of the policy's sampling. It also seeds `reset` if no task is given.
        task: Task id, for environments that have tasks.
        max_turns: Number of turns after which the episode is truncated with stop reason `horizon`.
            Only for environments that envgym makes.
        step: Training step used by reward schedules. Only for environments that envgym makes.

    Returns:
        The record. If the environment failed, the episode is void: `failure` describes the error
        and there is no reward. Any exception of the environment except `EnvgymError` counts as such
        a failure.

    Raises:
        SpecError: If the environment's definition is wrong.
        UsageError: If an option is wrong.
    """
    record = _Record(seed)
    try:
        options = {
            name: value
            for name, value in (("task", task), ("max_turns", max_turns), ("step", step))
            if value
        }
        return _play(env, policy, seed, options, record)
    except WorldFailure as failure:
        return record.void(Failure(failure.kind, failure.stage, failure.message), task)
    finally:
        record.close()


def _play(
    env: gymnasium.Env, policy: Policy, seed: int, options: dict[str, Any], record: _Record
) -> Episode:
    seeded = None if "task" in options else seed
    observation, info = record.world(
        "open", _values, 2, env.reset, seed=seeded, options=options or None
    )
    record.opened(observation, info)
    dialogue = record.dialogue = record.timed(
        "policy",
        policy.open,
        record.messages,
        info.get("tools", ()),
        seed=seed,
        task=getattr(env.unwrapped, "task", None),
    )
    while True:
        completion = record.timed("policy", dialogue.reply)
        if completion.stop_reason == "context":
            terms = record.cut(completion)
            return record.ended(
                "context", terminated=False, truncated=True, info={"reward_terms": terms}
            )
        observation, reward, terminated, truncated, info = record.world(
            "step", _values, 5, env.step, completion.text
        )
        record.stepped(completion.text, _number(reward), observation, info)
        if failure := info.get("failure"):
            raise WorldFailure(failure["kind"], failure["message"], stage=failure["stage"])
        if terminated or truncated:
            reason = (
                "length"
                if completion.stop_reason == "length"
                else "terminated"
                if terminated
                else "truncated"
            )
            return record.ended(
                info.get("stop_reason", reason),
                terminated=terminated,
                truncated=truncated,
                info=info,
            )
        record.timed("policy", dialogue.observe, record.answers)


@dataclass
class _Record:
    """Episode under construction."""

    seed: int
    messages: list[Message] = field(default_factory=list)
    answers: list[Message] = field(default_factory=list)
    task: dict[str, Any] = field(default_factory=dict)
    reward: float = 0.0
    turns: int = 0
    turn_rewards: list[float] = field(default_factory=list)
    turn_mistakes: list[int] = field(default_factory=list)
    start_hash: str = ""
    env_id: str = ""
    given_up: dict[str, Term] | None = None
    parse_modes: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=lambda: {"policy": 0.0, "env": 0.0})
    dialogue: Any = None

    def timed(self, place: str, function: Callable, *arguments: Any, **keywords: Any) -> Any:
        start = time.perf_counter()
        try:
            return function(*arguments, **keywords)
        finally:
            self.seconds[place] += time.perf_counter() - start

    def world(self, stage: Stage, function: Callable, *arguments: Any, **keywords: Any) -> Any:
        """Call environment code, timed, and turn its exceptions into WorldFailure.

        An `EnvgymError` is passed on unchanged.
        """
        try:
            return self.timed("env", function, *arguments, **keywords)
        except EnvgymError:
            raise
        except Exception as error:
            raise WorldFailure(ENV_RAISED, tail_of(error), stage=stage) from error

    def opened(self, observation: str, info: dict[str, Any]) -> None:
        given = info.get("messages")
        self.messages = (
            [Message.from_dict(m) for m in given] if given else [Message("user", str(observation))]
        )
        self.task, self.start_hash = info.get("task", {}), info.get("state_hash", "")
        self.env_id = info.get("env_id", "")
        self.given_up = info.get("given_up")

    def stepped(self, text: str, reward: float, observation: str, info: dict[str, Any]) -> None:
        self.turns += 1
        self.reward += reward
        self.turn_rewards.append(reward)
        mistakes = info.get("mistakes")  # a foreign environment may use this key differently
        self.turn_mistakes.append(mistakes if isinstance(mistakes, int) else 0)
        given = info.get("messages")
        said = [Message("user", str(observation))] if str(observation) else []
        self.answers = [Message.from_dict(m) for m in given] if given is not None else said
        self.messages += [Message("assistant", text), *self.answers]
        if mode := info.get("parse_mode"):
            self.parse_modes[mode] = self.parse_modes.get(mode, 0) + 1

    def cut(self, completion: Completion) -> dict[str, Term]:
        """Abort the episode because the context is full, and return its reward terms.

        The partial turn is recorded but not sent to the environment. The episode gets the failure
        reward, so that filling the context is never better than failing. The terms are empty for a
        foreign environment.
        """
        if completion.token_ids:
            self.turns += 1
            self.turn_rewards.append(0.0)
            self.turn_mistakes.append(0)
            self.messages.append(Message("assistant", completion.text))
        if self.given_up is None or not self.turn_rewards:
            return {}
        lost = min(0.0, total(self.given_up) - self.reward)
        self.turn_rewards[-1] += lost
        self.reward += lost
        rest = [*self.turn_rewards[:-1], self.turn_rewards[-1] - total(self.given_up)]
        return self.given_up | {PENALTY: Term(1.0, math.fsum(rest), 1.0, by_turn=tuple(rest))}

    def ended(
        self, reason: str, *, terminated: bool, truncated: bool, info: dict[str, Any]
    ) -> Episode:
        # A task that was aborted because the context is full is not solved.
        unknown = False if reason == "context" else None
        return self._episode(
            reward=self.reward,
            reward_parts=info.get("reward_parts", {}),
            reward_terms=info.get("reward_terms", {}),
            success=info.get("success", unknown),
            state_diff=info.get("state_diff", {}),
            stop_reason=reason,
            terminated=terminated,
            truncated=truncated,
            tool_calls=info.get("tool_calls", 0),
            tool_errors=info.get("tool_errors", 0),
        )

    def void(self, failure: Failure, task: str | None) -> Episode:
        self.task = self.task or {"id": task or ""}
        return self._episode(reward=None, success=None, stop_reason="void", failure=failure)

    def _episode(self, **end: Any) -> Episode:
        task = self.task
        return Episode(
            env_id=self.env_id,
            task_id=task.get("id", ""),
            split=task.get("split", ""),
            level=task.get("level", ""),
            template=task.get("template", ""),
            seed=self.seed,
            messages=tuple(self.messages),
            tokens=self.dialogue.trace() if self.dialogue is not None else None,
            turns=self.turns,
            turn_rewards=tuple(self.turn_rewards),
            turn_mistakes=tuple(self.turn_mistakes),
            parse_modes=dict(self.parse_modes),
            start_hash=self.start_hash,
            seconds=dict(self.seconds),
            **end,
        )

    def close(self) -> None:
        if self.dialogue is not None:
            self.dialogue.close()


def _values(count: int, function: Callable, *arguments: Any, **keywords: Any) -> tuple[Any, ...]:
    """Call `reset` (2 values) or `step` (5 values) and check the number of returned values."""
    values = function(*arguments, **keywords)
    if not isinstance(values, tuple) or len(values) != count:
        raise TypeError(
            f"{getattr(function, '__name__', function)} must return {count} values, got {values!r}"
        )
    return values


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


@dataclass(frozen=True, slots=True)
class Request:
    """Settings of one episode to play."""

    task: str
    seed: int
    max_turns: int | None = None
    """Turn limit, see `play`; None for the limit of the environment."""
    step: int = 0
    """Training step, see `play`."""


def play_many(
    make_env: Callable[[], gymnasium.Env],
    policy: Policy,
    requests: Sequence[Request],
    *,
    workers: int = 64,
    on_episode: Callable[[Episode], None] = lambda episode: None,
    on_done: Callable[[], None] = lambda: None,
    cap: FailureLimit | None = None,
) -> list[Episode]:
    """Play many episodes in parallel, each in one worker thread.

    Episodes do not wait for each other. A void episode is retried once with the same seed, and the
    record keeps the first failure (`first_failure`).

    Args:
        make_env: Create one environment per worker. Environments may share a world.
        policy: Policy that plays; it must be thread-safe.
        requests: Episodes to play.
        workers: Maximum number of episodes in flight, which is also the largest batch of a batching
            policy.
        on_episode: Called in the calling thread after each episode.
        on_done: Called once per request, in any thread, when it was played, raised an exception or
            was cancelled.
        cap: Limit on void episodes, shared with other calls; None for no limit.

    Returns:
        The episodes in the order of the requests.

    Raises:
        TooManyFailures: If `cap` is exceeded. `on_episode` was called for every episode before.
    """
    envs = _Envs(make_env)

    def run(request: Request) -> Episode:
        first = envs.play(policy, request)
        if not first.void:
            return first
        return dataclasses.replace(envs.play(policy, request), first_failure=first.failure)

    pool = ThreadPoolExecutor(
        max_workers=max(1, min(workers, len(requests))), thread_name_prefix="episode"
    )
    try:
        futures = [pool.submit(run, request) for request in requests]
        for future in futures:
            future.add_done_callback(lambda _: on_done())
        pending: set[Future[Episode]] = set(futures)
        while pending:
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            for future in done:
                on_episode(future.result())
                if cap is not None:
                    cap.count(future.result())
        return [future.result() for future in futures]
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        envs.close()


class _Envs:
    """Environments of one `play_many` call, created on demand and reused.

    An environment is closed and replaced if its code raises.
    """

    def __init__(self, make_env: Callable[[], gymnasium.Env]):
        self._make, self._idle = make_env, SimpleQueue[gymnasium.Env]()

    def play(self, policy: Policy, request: Request) -> Episode:
        record = _Record(request.seed)
        try:
            env = record.world("open", self._take)
        except WorldFailure as failure:
            return record.void(Failure(failure.kind, failure.stage, failure.message), request.task)
        broken = True
        try:
            episode = play(
                env,
                policy,
                seed=request.seed,
                task=request.task,
                max_turns=request.max_turns,
                step=request.step,
            )
            broken = episode.failure is not None and episode.failure.kind == ENV_RAISED
            return episode
        finally:
            _close(env) if broken else self._idle.put(env)

    def close(self) -> None:
        """Close all idle environments. Call this only after all episodes have ended."""
        while not self._idle.empty():
            _close(self._idle.get_nowait())

    def _take(self) -> gymnasium.Env:
        try:
            return self._idle.get_nowait()
        except Empty:
            return self._make()


def _close(env: gymnasium.Env) -> None:
    try:
        env.close()
    except Exception:  # its episodes are complete; an error here must not discard them
        log.warning("an environment could not be closed", exc_info=True)
