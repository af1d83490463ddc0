"""Whole episodes in real sandbox containers.

Every backend gives the same episodes, and no container is left when the trainer is killed.
"""

import dataclasses
import functools
import signal
import time

import pytest

from envgym.env import ToolWorld
from envgym.playing import Request, play_many
from envgym.policies.oracle import OraclePolicy
from envgym.policies.random import RandomPolicy
from envgym.sandbox.containers.engine import connect
from envgym.spec.environment import load_spec
from tests.fakes.kiosk_app import options
from tests.fakes.processes import train_guess

LEVELS = ("L0", "L1", "L2", "L3")


def engine():
    try:
        return connect()
    except Exception as error:
        pytest.skip(f"no Docker engine answers: {error}")


KINDS = [
    ("none", "state"),
    ("local", "state"),
    ("local", "fork"),
    ("bubblewrap", "fork"),
    ("bubblewrap", "container"),
    ("docker", "state"),
    ("docker", "fork"),
    ("docker", "namespaces"),
    ("docker", "container"),
]
FEW = 8
"""Tasks played where each episode starts a box of its own."""


def records(backend, isolation="fork", count=34):
    world = ToolWorld(
        load_spec("crm", [f"sandbox.backend={backend}", f"sandbox.isolation={isolation}"])
    )
    try:
        requests = [
            Request(task, seed)
            for seed, task in enumerate(world.tasks.ids("test", levels=LEVELS, count=count))
        ]
        policies = (
            OraclePolicy("pythonic"),
            RandomPolicy(list(world.tools.values()), dialect="pythonic"),
        )
        return [
            dataclasses.replace(e, seconds={})
            for policy in policies
            for e in play_many(world.env, policy, requests, workers=4)
        ]
    finally:
        world.close()


@functools.cache
def transcripts(kind, count):
    return [episode.to_json() for episode in records(*kind, count=count)]


@pytest.mark.docker
@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_episodes_are_the_same_byte_for_byte_under_every_backend_and_level(kind):
    options(kind)  # skips if the backend is not available
    count = FEW if kind[1] == "container" else 34
    said = transcripts(kind, count)
    assert said == transcripts(("local", "fork"), count)
    assert len(set(said)) == 2 * count


def test_every_oracle_of_every_level_solves_its_task_in_a_real_box():
    solved = [episode.success for episode in records("local")[:34]]
    assert solved == [True] * 34


@pytest.mark.docker
def test_a_trainer_that_is_killed_leaves_no_container(tmp_path):
    api = engine()

    def boxes():
        return {c["Id"] for c in api.containers(all=True, filters={"label": "envgym.run"})}

    before = boxes()
    trainer = train_guess(
        "sandbox.backend=docker",
        "train.steps=1000",
        "train.warm_start.episodes=0",
        "train.checks.preflight=off",
        "--out",
        tmp_path,
    )
    try:
        wait_until(lambda: boxes() - before or trainer.poll() is not None, seconds=120)
        assert boxes() - before, trainer.stdout.read()
        time.sleep(2)  # during its episodes
    finally:
        trainer.send_signal(signal.SIGKILL)
        trainer.wait()
    wait_until(lambda: not boxes() - before, seconds=10)
    assert not boxes() - before


def wait_until(done, *, seconds):
    deadline = time.monotonic() + seconds
    while not done() and time.monotonic() < deadline:
        time.sleep(0.2)
