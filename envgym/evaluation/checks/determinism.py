"""Same seed, same episode: again in this process, in sixteen threads at once, and in another process."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from envgym.dialects import render_call
from envgym.episode import Episode
from envgym.evaluation.checks.fixture import Bench, CheckResult, verdict
from envgym.play import Request, play_many
from envgym.policies import Policy
from envgym.policies.scripted import NoopPolicy, OraclePolicy, RandomPolicy
from envgym.registration import make_world
from envgym.spec.environment import EnvSpec
from envgym.tasks import Task

TASKS = 12
"""Tasks of each split that are replayed."""
THREADS = 16
SEEDS = 12

Digests = dict[str, tuple[str, str]]
"""`policy task` -> (digest of everything that was said, digest of the scores)."""


def seed_control(world: Any) -> CheckResult:
    """`reset(seed=)` fixes the task and its first observation, and different seeds lead to different tasks."""
    one = world.env()
    other = world.env()
    try:
        first = {seed: _opening(one, seed) for seed in range(SEEDS)}
        again = {seed: _opening(other, seed) for seed in reversed(range(SEEDS))}
    finally:
        one.close()
        other.close()
    offenders = [
        f"reset(seed={seed}) gave two different beginnings"
        for seed in first
        if first[seed] != again[seed]
    ]
    seen = {observation for observation, _ in first.values()}
    if len(seen) == 1:
        offenders.append(f"{SEEDS} different seeds gave one and the same beginning")
    return verdict(
        "seed_control",
        offenders,
        f"{SEEDS} seeds, {len(seen)} different beginnings, each the same twice",
    )


def _opening(env: Any, seed: int) -> tuple[str, str]:
    """What is seen first, and that together with what is known of it."""
    observation, info = env.reset(seed=seed)
    known = [observation, info.get("messages"), info.get("task"), info.get("state_hash")]
    return observation, json.dumps(known, ensure_ascii=False)


def episode_determinism(spec: EnvSpec, world: Any, ids: Sequence[str]) -> list[CheckResult]:
    """Replays of the same tasks, in other circumstances: byte-identical observations and equal scores."""
    reference = replay(world, ids, workers=1)
    others = {
        "again": replay(world, list(reversed(ids)), workers=1),
        f"in {THREADS} threads": replay(world, [*ids, *ids], workers=THREADS),
        "in a second process": _in_another_process(spec, ids),
    }
    return [
        _compare("episode_determinism", "observations", 0, reference, others),
        _compare("verifier_determinism", "scores", 1, reference, others),
    ]


def _compare(
    check: str, what: str, part: int, reference: Digests, others: dict[str, Digests]
) -> CheckResult:
    offenders = [
        f"{name}: other {what} {how}"
        for how, digests in others.items()
        for name in reference
        if digests.get(name, ("", ""))[part] != reference[name][part]
    ]
    return verdict(
        check, offenders, f"{len(reference)} episodes with the same {what} {', '.join(others)}"
    )


def replay(world: Any, ids: Sequence[str], *, workers: int) -> Digests:
    """Plays the tasks with policies that need no model; a task that stands twice must come out the same twice."""
    digests: Digests = {}
    for name, policy in _policies(world).items():
        requests = [Request(task, 0) for task in ids]
        for episode in play_many(world.env, policy, requests, workers=workers):
            key = f"{name} {episode.task_id}"
            found = (_digest(_said(episode)), _digest(_scores(episode)))
            digests[key] = _agreed(found, digests.get(key, found))
    return digests


def _agreed(found: tuple[str, str], other: tuple[str, str]) -> tuple[str, str]:
    said, scored = (
        one if one == two else "differs from itself" for one, two in zip(found, other, strict=True)
    )
    return said, scored


def _policies(world: Any) -> dict[str, Policy]:
    if not hasattr(world, "tools"):  # a foreign environment
        return {"noop": NoopPolicy()}
    dialect = world.spec.prompt.dialects[0]
    return {
        "oracle": OraclePolicy(dialect),
        "random": RandomPolicy(list(world.tools.values()), dialect=dialect),
    }


def _said(episode: Episode) -> Any:
    return [
        episode.start_hash,
        [message.to_dict() for message in episode.messages],
        episode.stop_reason,
        bool(episode.failure),
    ]


def _scores(episode: Episode) -> Any:
    return [episode.reward, episode.reward_parts, episode.success, episode.state_diff]


def _digest(plain: Any) -> str:
    return hashlib.sha256(
        json.dumps(plain, sort_keys=True, ensure_ascii=False, default=repr).encode()
    ).hexdigest()


def _in_another_process(spec: EnvSpec, ids: Sequence[str]) -> Digests:
    """The replay of a fresh interpreter with another hash seed, so that the order of a set shows."""
    code = "from envgym.evaluation.checks.determinism import replay_from_stdin; replay_from_stdin()"
    environment = os.environ | {
        "PYTHONHASHSEED": "12345",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=pickle.dumps((spec, list(ids))),
        capture_output=True,
        env=environment,
        check=False,
    )
    if done.returncode != 0:
        return {
            "": ("the second process failed: " + done.stderr.decode(errors="replace")[-400:], "")
        }
    return {
        name: (said, scores)
        for name, (said, scores) in json.loads(done.stdout.splitlines()[-1]).items()
    }


def replay_from_stdin() -> None:
    """The second process: reads a pickled (spec, ids), prints the digests as the last line."""
    spec, ids = pickle.load(sys.stdin.buffer)
    world = make_world(spec)
    try:
        digests = replay(world, ids, workers=1)
    finally:
        world.close()
    print(json.dumps(digests))


def episode_isolation(bench: Bench) -> CheckResult:
    """An episode that writes leaves no trace in another one of the same task, open beside it or started after it."""
    offenders = []
    tasks = bench.sample(4)
    one = bench.world.env()
    beside = bench.world.env()
    try:
        for task in tasks:
            beside.reset(options={"task": task.id})
            one.reset(options={"task": task.id})
            alone = _answers(one, task, bench.dialect)
            if _answers(beside, task, bench.dialect) != alone:
                offenders.append(
                    f"{task.id}: an episode that was open beside the oracle's saw what that one had done"
                )
            one.reset(options={"task": task.id})
            if _answers(one, task, bench.dialect) != alone:
                offenders.append(
                    f"{task.id}: an episode started after the oracle's saw what that one had done"
                )
    finally:
        one.close()
        beside.close()
    return verdict(
        "episode_isolation",
        offenders,
        f"{len(tasks)} tasks: nothing of one episode shows in another",
    )


def _answers(env: Any, task: Task, dialect: str) -> list[Any]:
    """Everything the oracle is answered in an episode that has just been reset."""
    answers: list[Any] = []
    for text in [*(render_call(call, dialect) for call in task.oracle), task.final]:
        observation, reward, terminated, truncated, info = env.step(text)
        answers.append((observation, reward, info.get("state_diff"), bool(info.get("failure"))))
        if terminated or truncated:
            break
    return answers
