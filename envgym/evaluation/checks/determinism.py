"""Determinism checks: equal seeds give equal episodes, also in threads and in a new process."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import gymnasium

from envgym.dialects import render_call
from envgym.episode import Episode
from envgym.evaluation.checks.fixture import CheckFixture, CheckResult, check_result
from envgym.playing import Request, play_many
from envgym.policies import Policy
from envgym.policies.noop import NoopPolicy
from envgym.policies.oracle import OraclePolicy
from envgym.policies.random import RandomPolicy
from envgym.registration import make_world
from envgym.spec.environment import EnvSpec
from envgym.tasks import Task
from envgym.text import record_form, to_json
from envgym.world import World

TASKS = 12
"""Number of tasks per split that are replayed."""
THREADS = 16
SEEDS = 12

Digests = dict[str, tuple[str, str]]
"""(digest of messages, digest of scores) by the key `policy task`."""


def seed_control(world: World) -> CheckResult:
    """Check that `reset(seed=)` determines the task and its first observation.

    Different seeds must lead to different tasks.
    """
    one = world.env()
    other = world.env()
    try:
        first = {seed: _opening(one, seed) for seed in range(SEEDS)}
        again = {seed: _opening(other, seed) for seed in reversed(range(SEEDS))}
    finally:
        one.close()
        other.close()
    offenders = [
        f"reset(seed={seed}) returned two different observations or infos"
        for seed in first
        if first[seed] != again[seed]
    ]
    seen = {observation for observation, _ in first.values()}
    if len(seen) == 1:
        offenders.append(f"{SEEDS} different seeds returned the same first observation")
    return check_result(
        "seed_control",
        offenders,
        f"{SEEDS} seeds, {len(seen)} different first observations, each equal when repeated",
    )


def _opening(env: gymnasium.Env, seed: int) -> tuple[str, str]:
    """Return the first observation, and its JSON together with the info of `reset`."""
    observation, info = env.reset(seed=seed)
    known = [observation, info.get("messages"), info.get("task"), info.get("state_hash")]
    return observation, to_json(known)


def episode_determinism(world: World, ids: Sequence[str]) -> list[CheckResult]:
    """Check that replays of a task give equal observations (byte by byte) and equal scores."""
    reference = replay(world, ids, workers=1)
    others = {
        "again": replay(world, list(reversed(ids)), workers=1),
        f"in {THREADS} threads": replay(world, [*ids, *ids], workers=THREADS),
        "in a second process": _in_another_process(world.spec, ids),
    }
    return [
        _compare("episode_determinism", "observations", 0, reference, others),
        _compare("verifier_determinism", "scores", 1, reference, others),
    ]


def _compare(
    check: str, what: str, part: int, reference: Digests, others: dict[str, Digests]
) -> CheckResult:
    offenders = [
        f"{name}: different {what} {how}"
        for how, digests in others.items()
        for name in reference
        if digests.get(name, ("", ""))[part] != reference[name][part]
    ]
    return check_result(
        check, offenders, f"{len(reference)} episodes with the same {what} {', '.join(others)}"
    )


def replay(world: World, ids: Sequence[str], *, workers: int) -> Digests:
    """Play the tasks with policies that need no model.

    If a task id is repeated, its episodes must agree; otherwise the digest is replaced by a note.
    """
    digests: Digests = {}
    for name, policy in _policies(world).items():
        requests = [Request(task, 0) for task in ids]
        for episode in play_many(world.env, policy, requests, workers=workers):
            key = f"{name} {episode.task_id}"
            found = (_digest(_messages(episode)), _digest(_scores(episode)))
            digests[key] = _agreed(found, digests.get(key, found))
    return digests


def _agreed(found: tuple[str, str], other: tuple[str, str]) -> tuple[str, str]:
    messages, scores = (
        one if one == two else "differs from itself" for one, two in zip(found, other, strict=True)
    )
    return messages, scores


def _policies(world: World) -> dict[str, Policy]:
    if world.rubric is None:  # a foreign environment has no oracle
        return {"noop": NoopPolicy()}
    dialect = world.spec.prompt.dialects[0]
    return {
        "oracle": OraclePolicy(dialect),
        "random": RandomPolicy(list(world.tools.values()), dialect=dialect),
    }


def _messages(episode: Episode) -> Any:
    return [
        episode.start_hash,
        [message.to_dict() for message in episode.messages],
        episode.stop_reason,
        bool(episode.failure),
    ]


def _scores(episode: Episode) -> Any:
    return [episode.reward, episode.reward_parts, episode.success, episode.state_diff]


def _digest(plain: Any) -> str:
    return hashlib.sha256(json.dumps(record_form(plain), sort_keys=True).encode()).hexdigest()


def _in_another_process(spec: EnvSpec, ids: Sequence[str]) -> Digests:
    """Replay in a new interpreter with another hash seed, which reveals dependence on set order."""
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
        name: (messages, scores)
        for name, (messages, scores) in json.loads(done.stdout.splitlines()[-1]).items()
    }


def replay_from_stdin() -> None:
    """Entry point of the second process.

    It reads a pickled (spec, ids) from stdin and prints the digests as the last line.
    """
    spec, ids = pickle.load(sys.stdin.buffer)
    world = make_world(spec)
    try:
        digests = replay(world, ids, workers=1)
    finally:
        world.close()
    print(json.dumps(digests))


def episode_isolation(fixture: CheckFixture) -> CheckResult:
    """Check that an episode that writes does not affect another episode of the same task.

    The other episode is either open at the same time or started later.
    """
    offenders = []
    tasks = fixture.sample(4)
    one = fixture.world.env()
    beside = fixture.world.env()
    try:
        for task in tasks:
            beside.reset(options={"task": task.id})
            one.reset(options={"task": task.id})
            alone = _answers(one, task, fixture.dialect)
            if _answers(beside, task, fixture.dialect) != alone:
                offenders.append(
                    f"{task.id}: an episode open at the same time saw the oracle's changes"
                )
            one.reset(options={"task": task.id})
            if _answers(one, task, fixture.dialect) != alone:
                offenders.append(
                    f"{task.id}: an episode started after the oracle's saw the oracle's changes"
                )
    finally:
        one.close()
        beside.close()
    return check_result(
        "episode_isolation",
        offenders,
        f"{len(tasks)} tasks: no episode sees the changes of another one",
    )


def _answers(env: gymnasium.Env, task: Task, dialect: str) -> list[Any]:
    """Return all observations and rewards of the oracle in an episode that was just reset."""
    answers: list[Any] = []
    for text in [*(render_call(call, dialect) for call in task.oracle), task.final]:
        observation, reward, terminated, truncated, info = env.step(text)
        answers.append((observation, reward, info.get("state_diff"), bool(info.get("failure"))))
        if terminated or truncated:
            break
    return answers
