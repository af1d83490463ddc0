"""Play episodes: the interaction loop, a plain function that a worker thread runs to the end."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

import gymnasium

from envgym.env import ToolEnv
from envgym.episode import Episode
from envgym.errors import EnvgymError, WorldFailure
from envgym.failures import FailureLimit
from envgym.policies import Completion, Policy
from envgym.record import ENV_RAISED, EPISODE_FAILED, EpisodeRecorder
from envgym.sandbox.agent.errors import tail_of
from envgym.secrets import get_logger
from envgym.world import Env

log = get_logger(__name__)


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
        The record. If the environment or the policy failed, the episode is void: `failure`
        describes the error and there is no reward. Any exception except `EnvgymError` counts as
        such a failure.

    Raises:
        SpecError: If the environment's definition is wrong.
        UsageError: If an option is wrong.
        PrerequisiteError: If something must be installed or started first.

    >>> from envgym import OraclePolicy, make
    >>> play(make("guess"), OraclePolicy(), seed=0, task="test/find_number/0").reward
    1.0
    """
    record = EpisodeRecorder(seed)
    try:
        options = {
            name: value
            for name, value in (("task", task), ("max_turns", max_turns), ("step", step))
            if value
        }
        return _play(env, policy, seed, options, record)
    except WorldFailure as failure:
        return record.void(failure, task)
    except (EnvgymError, KeyboardInterrupt):
        raise
    except BaseException as error:
        failure = WorldFailure(EPISODE_FAILED, tail_of(error), stage="step")
        return record.void(failure, task)
    finally:
        record.close()


def _play(
    env: gymnasium.Env,
    policy: Policy,
    seed: int,
    options: dict[str, Any],
    record: EpisodeRecorder,
) -> Episode:
    seeded = None if "task" in options else seed
    observation, info = record.call_env(
        "open", _values, 2, env.reset, seed=seeded, options=options or None
    )
    record.opened(observation, info)
    own = find_env(env)
    dialogue = record.dialogue = record.call_policy(
        policy.open,
        record.messages,
        info.get("tools", ()),
        seed=seed,
        task=own.task if own else None,
    )
    while True:
        completion = record.call_policy(dialogue.reply)
        if completion.stop_reason == "context":
            return _abort(own, completion, record)
        observation, reward, terminated, truncated, info = record.call_env(
            "step", _values, 5, env.step, completion.text
        )
        record.stepped(completion, reward, observation, info)
        if failure := info.get("failure"):
            raise WorldFailure(failure["kind"], failure["message"], stage=failure["stage"])
        if terminated or truncated:
            if isinstance(own, ToolEnv):
                record.seconds["lost"] = own.seconds_lost
            default = "terminated" if terminated else "truncated"
            reason = info.get("stop_reason", default)
            # Only the policy knows that a token limit cut the answer that ended the episode.
            if completion.stop_reason == "length" and reason in ("answered", "terminated"):
                reason = "length"
            return record.ended(reason, terminated=terminated, truncated=truncated, info=info)
        record.call_policy(dialogue.observe, record.answers)


def _abort(env: Env | None, completion: Completion, record: EpisodeRecorder) -> Episode:
    """Abort an episode because the context is full.

    The unfinished answer counts as a turn if at least one token of it was sampled.
    """
    answer = completion if completion.token_ids else None
    reward, info = 0.0, {"success": False}
    if env is not None:
        text = answer.text if answer else None
        _, reward, _, _, info = record.call_env("step", _values, 5, env.abort, "context", text)
    record.aborted(answer, reward)
    return record.ended("context", terminated=False, truncated=True, info=info)


def find_env(env: gymnasium.Env) -> Env | None:
    """Return the environment with `abort` inside Gymnasium's wrappers, or None if there is none."""
    inner: Any = env
    while not isinstance(inner, Env):
        if not isinstance(inner, gymnasium.Wrapper):
            return None
        inner = inner.env
    return inner


def _values(count: int, function: Callable, *arguments: Any, **keywords: Any) -> tuple[Any, ...]:
    """Call `reset` (2 values) or `step` (5 values) and check the number of returned values."""
    values = function(*arguments, **keywords)
    if not isinstance(values, tuple) or len(values) != count:
        raise TypeError(
            f"{getattr(function, '__name__', function)} must return {count} values, got {values!r}"
        )
    return values


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
    record keeps the first failure (`retried_failure`). An exception in one episode never ends the
    others: it makes that episode void.

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
        TooManyFailures: If `cap` is exceeded. `on_episode` was called for every episode that ended.
        EnvgymError: If an episode cannot be played because of a mistake of the user, and no other
            episode was played before: then all of them would fail.
    """
    envs = _Envs(make_env)

    def run(request: Request) -> Episode:
        first = envs.play(policy, request)
        if not first.is_void:
            return first
        return dataclasses.replace(envs.play(policy, request), retried_failure=first.failure)

    pool = ThreadPoolExecutor(
        max_workers=max(1, min(workers, len(requests))), thread_name_prefix="episode"
    )
    pending: set[Future[Episode]] = set()
    try:
        futures = [pool.submit(run, request) for request in requests]
        for future in futures:
            future.add_done_callback(lambda _: on_done())
        request_of = dict(zip(futures, requests, strict=True))
        episodes: dict[Future[Episode], Episode] = {}
        pending |= set(futures)
        while pending:
            done, _ = wait(pending, return_when=FIRST_COMPLETED)
            # Episodes that were played come first, so that an error cannot lose them.
            for future in sorted(done, key=_has_raised):
                pending.discard(future)
                is_first = all(episode.is_void for episode in episodes.values())
                episode = _result(future, request_of[future], raises=is_first)
                episodes[future] = episode
                on_episode(episode)
                if cap is not None:
                    cap.count(episode)
        return [episodes[future] for future in futures]
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        for future in pending:
            _report_late(future, on_episode)
        envs.close()


def _report_late(future: Future[Episode], on_episode: Callable[[Episode], None]) -> None:
    """Report an episode that ended while an error or Ctrl-C ended `play_many`."""
    if future.cancelled() or future.exception() is not None:
        return
    with contextlib.suppress(Exception, KeyboardInterrupt):  # the first error is raised
        on_episode(future.result())


def _has_raised(future: Future[Episode]) -> bool:
    return future.exception() is not None


def _result(future: Future[Episode], request: Request, *, raises: bool) -> Episode:
    """Return the episode of a future, or a void one if it raised an exception.

    Args:
        future: Future that is done.
        request: Request of the episode.
        raises: Raise an `EnvgymError` instead of returning a void episode.
    """
    error = future.exception()
    if error is None:
        return future.result()
    if raises and isinstance(error, EnvgymError):
        raise error
    message = str(error) if isinstance(error, EnvgymError) else tail_of(error)
    failure = WorldFailure(EPISODE_FAILED, message, stage="step")
    return EpisodeRecorder(request.seed).void(failure, request.task)


class _Envs:
    """Environments of one `play_many` call, created on demand and reused.

    An environment is closed and replaced if its code raises.
    """

    def __init__(self, make_env: Callable[[], gymnasium.Env]):
        self._make, self._idle = make_env, SimpleQueue[gymnasium.Env]()

    def play(self, policy: Policy, request: Request) -> Episode:
        record = EpisodeRecorder(request.seed)
        try:
            env = record.call_env("open", self._take)
        except WorldFailure as failure:
            return record.void(failure, request.task)
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
    except KeyboardInterrupt:
        raise
    except BaseException:  # its episodes are complete; an error here must not discard them
        log.warning("an environment could not be closed", exc_info=True)
