"""Void attack: an adversary plays every shipped environment, and no episode may be void.

ENVGYM_ATTACK_EPISODES is the number of episodes, 300 by default. Failures that the test itself
causes (killed boxes, failing seed functions, a full disk, a dead engine) must all be void.
"""

import errno
import os
import shutil
import time

import pytest

from envgym.env import ToolWorld
from envgym.playing import Request, play, play_many
from envgym.policies.oracle import OraclePolicy
from envgym.policies.scripted import ScriptedPolicy
from envgym.spec.environment import load_spec
from tests.fakes.adversary import Adversary
from tests.fakes.kiosk_app import need_docker
from tests.fakes.shop_env import FAILS_IN_BOXES, shop
from tests.gym.sandbox.test_sandbox_lost import kill_boxes

EPISODES = int(os.environ.get("ENVGYM_ATTACK_EPISODES", "300"))
PLANTED = int(os.environ.get("ENVGYM_PLANTED_FAILURES", "20"))
WORKERS = 8
LOCAL = ["sandbox.backend=local", "sandbox.isolation=fork"]
BUBBLEWRAP = ["sandbox.backend=bubblewrap", "sandbox.isolation=container"]
DOCKER = ["sandbox.backend=docker", "sandbox.isolation=fork"]
NONE = ["sandbox.backend=none"]
WITH_TOOLS = ("crm", "guess", "kb-qa", "orders", "report")
ATTACKS = [
    *[(name, LOCAL, 4) for name in (*WITH_TOOLS, "notes")],
    *[(name, ["sandbox.backend=local", "sandbox.isolation=state"], 2) for name in WITH_TOOLS],
    *[(name, NONE, 2) for name in WITH_TOOLS],
    *[(name, BUBBLEWRAP, 1) for name in ("crm", "orders", "report")],
    *[(name, DOCKER, 1) for name in ("crm", "orders", "report")],
    ("workspace", [*BUBBLEWRAP, "episode.tool_timeout_seconds=3"], 2),
    ("workspace", ["sandbox.backend=docker", "episode.tool_timeout_seconds=3"], 1),
]
"""Environment, settings of the sandbox, and its part of the episodes."""
PARTS = sum(parts for *_, parts in ATTACKS)
BOXED = [
    pytest.param(LOCAL, id="local"),
    pytest.param(BUBBLEWRAP, id="bubblewrap"),
    pytest.param(DOCKER, id="docker", marks=pytest.mark.docker),
]


def need(settings) -> None:
    if "sandbox.backend=docker" in settings:
        need_docker()
    if "sandbox.backend=bubblewrap" in settings and shutil.which("bwrap") is None:
        pytest.skip("NOT TESTED, no bubblewrap: install the package `bubblewrap`")


def label(attack) -> str:
    name, settings, _ = attack
    return "-".join([name, *[each.partition("=")[2] for each in settings[:2]]])


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("attack", ATTACKS, ids=label)
def test_no_action_of_a_model_voids_an_episode_or_earns_more_than_the_honest_one(attack):
    name, settings, parts = attack
    need(settings)
    count = max(4, round(EPISODES * parts / PARTS))
    # A busy host may open a box late, which would be a failure of the world.
    patient = ["sandbox.open_timeout_seconds=600", "episode.max_turns=6"]
    world = ToolWorld(load_spec(name, [*settings, *patient]))
    try:
        ids = world.tasks.ids("train", count=count)
        honest = OraclePolicy(world.spec.prompt.dialects[0])
        best = play(world.env(), honest, seed=0, task=ids[0]).reward
        requests = [Request(task, number) for number, task in enumerate(ids)]
        policy = Adversary(list(world.tools.values()))
        started = time.monotonic()
        episodes = play_many(world.env, policy, requests, workers=WORKERS)
    finally:
        world.close()
    spent = time.monotonic() - started
    ended = sum(episode.stop_reason == "sandbox_ended" for episode in episodes)
    print(f"{label(attack)}: {count} episodes, {spent:.0f} s, {ended} ended their session")
    void = [(e.task_id, e.seed, f.kind, f.message[-300:]) for e in episodes for f in e.failures]
    assert void == []
    assert max(episode.reward for episode in episodes) <= best


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("settings", BOXED)
def test_each_box_that_the_test_kills_makes_its_episode_void(tmp_path, settings):
    need(settings)
    world = ToolWorld(shop(tmp_path, *settings))

    def act(task, turn):
        if turn == 1:
            kill_boxes(world.sandbox)
        return "price(item='I1')"

    policy = ScriptedPolicy(act)
    episodes = [
        play(world.env(), policy, seed=0, task=f"test/reprice/{number % 6}")
        for number in range(max(1, PLANTED // 4))
    ]
    world.close()
    assert all(episode.is_void and episode.reward is None for episode in episodes)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.ENOMEM, errno.EMFILE])
def test_a_host_without_space_memory_or_descriptors_makes_each_episode_void(
    tmp_path, monkeypatch, number
):
    world = ToolWorld(shop(tmp_path, *LOCAL))
    assert not play(world.env(), ScriptedPolicy([]), seed=0, task="test/reprice/0").is_void
    kill_boxes(world.sandbox)

    def full(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(world.sandbox, "_start", full)
    brief = world.spec.sandbox.model_copy(update={"open_timeout_seconds": 0.5})
    monkeypatch.setattr(world, "spec", world.spec.model_copy(update={"sandbox": brief}))
    for _ in range(max(1, PLANTED // 12)):
        episode = play(world.env(), ScriptedPolicy([]), seed=0, task="test/reprice/0")
        assert (episode.failure.stage, episode.reward) == ("open", None)
    world.close()


def test_a_seed_function_that_fails_in_the_box_makes_each_episode_void(tmp_path):
    world = ToolWorld(shop(tmp_path, *LOCAL, world=FAILS_IN_BOXES.replace("EVERY", "1")))
    for number in range(max(1, PLANTED // 4)):
        episode = play(world.env(), ScriptedPolicy([]), seed=0, task=f"test/reprice/{number % 6}")
        assert (episode.failure.kind, episode.reward) == ("seed_crashed", None)
    world.close()
