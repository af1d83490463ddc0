"""Each cause of a failure, driven through each backend and isolation level.

What a model can do is an observation or the failure reward; what the test does to the world from
outside is void.
"""

import threading
import time

import pytest

from envgym.env import ToolWorld
from envgym.playing import play
from envgym.policies.scripted import ScriptedPolicy
from tests.fakes.kiosk_app import EVERY, in_campaign, options
from tests.fakes.shop_env import FAILS_IN_BOXES, TOOLS, shop
from tests.gym.sandbox.test_sandbox_lost import kill_boxes

HOSTILE_TOOLS = '''
import signal
import sys

def bug(item: str) -> str:
    """Look up a key that is missing."""
    return {}[item]

def leave(code: int) -> str:
    """End the process."""
    os._exit(code)

def kill_self() -> str:
    """Kill the process."""
    os.kill(os.getpid(), signal.SIGKILL)

def raise_exit() -> str:
    """Raise SystemExit."""
    sys.exit(0)

def loop() -> str:
    """Never end."""
    while True:
        pass

def deaf() -> str:
    """Never end, whatever interrupts."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
    end = time.monotonic() + 20
    while time.monotonic() < end:
        try:
            time.sleep(0.05)
        except BaseException:
            continue

def endless_query(db) -> str:
    """Never end in SQL."""
    numbers = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT max(x) FROM c"
    return str(db.execute(numbers).fetchone())

def close_database(db) -> str:
    """Close the database."""
    db.close()

def forbid_all(db) -> str:
    """Deny all statements."""
    db.set_authorizer(lambda *_: 1)

def sql(db, statement: str) -> str:
    """Run a statement."""
    return str(db.execute(statement).fetchall())

def wait(seconds: float) -> str:
    """Wait."""
    time.sleep(seconds)
    return "waited"
'''

OBSERVED = {
    "crash()": "error: the tool failed: ZeroDivisionError",
    "bug(item='x')": "error: the tool failed: KeyError: 'x'",
    "price(item='I99')": "error: no item I99",
    "raise_exit()": "error: the tool failed: SystemExit: 0",
    "loop()": "error: the tool failed: not done after 0.8 s",
    "endless_query()": "error: the tool failed: not done after 0.8 s",
    "sql(statement='COMMIT')": "error: the tool failed: it ended the transaction",
    "sql(statement='ROLLBACK')": "error: the tool failed: it ended the transaction",
    "sql(statement='SELEC')": "error: the tool failed: OperationalError",
    "forbid_all()": "Done.",
    f"set_price(item='I1', price={2**63})": "error: price has an integer that does not fit",
}
"""Calls after which the episode goes on, and the start of the observation."""
ENDING = ["leave(code=3)", "kill_self()", "close_database()", "deaf()"]
"""Calls after which the session cannot go on."""


@pytest.fixture(scope="module", params=in_campaign(EVERY))
def world(request, tmp_path_factory):
    backend, level = request.param
    options(request.param)  # skips a backend that is absent
    settings = [f"sandbox.backend={backend}", f"sandbox.isolation={level}"]
    world = ToolWorld(
        shop(
            tmp_path_factory.mktemp("causes"),
            *settings,
            "episode.tool_timeout_seconds=0.8",
            "episode.max_turns=20",
            tools=TOOLS + HOSTILE_TOOLS,
        )
    )
    yield world
    world.close()


def played(world, *answers, then="Done."):
    policy = ScriptedPolicy(list(answers), then=then)
    return play(world.env(), policy, seed=0, task="test/reprice/0")


def test_what_a_tool_does_is_an_observation_and_the_episode_goes_on(world):
    episode = played(world, *OBSERVED)
    assert episode.failure is None
    shown = [message.content for message in episode.messages if message.role == "tool"]
    wrong = {
        call: text
        for (call, start), text in zip(OBSERVED.items(), shown, strict=True)
        if not text.startswith(start)
    }
    assert wrong == {}
    assert (episode.stop_reason, episode.reward) == ("answered", 0.0)
    assert (episode.tool_errors, episode.tool_failures) == (2, 8)


@pytest.mark.parametrize("call", ENDING)
def test_a_call_that_makes_the_session_unusable_has_the_failure_reward(world, call):
    if world.spec.sandbox.backend == "none" and call in ENDING[:2]:
        pytest.skip("without a box the call would end the process of this test")
    episode = played(world, "price(item='I1')", call)
    assert episode.failure is None
    # The first process of a namespace cannot kill itself.
    ends = ("sandbox_ended", "answered") if call == "kill_self()" else ("sandbox_ended",)
    assert episode.stop_reason in ends
    assert (episode.reward, episode.success) == (0.0, False)
    assert played(world).failure is None, "the next episode works"


def test_a_box_that_is_killed_between_two_calls_makes_the_episode_void(world):
    if world.spec.sandbox.backend == "none":
        pytest.skip("there is no box")

    def act(task, turn):
        if turn == 1:
            kill_boxes(world.sandbox)
        return "price(item='I1')"

    episode = play(world.env(), ScriptedPolicy(act), seed=0, task="test/reprice/0")
    assert (episode.failure.kind, episode.reward) == ("sandbox_lost", None)
    assert played(world).failure is None


def test_a_box_that_is_killed_during_an_innocent_call_makes_the_episode_void(world):
    if world.spec.sandbox.backend == "none":
        pytest.skip("there is no box")

    def kill_soon():
        time.sleep(0.2)
        kill_boxes(world.sandbox)

    killer = threading.Thread(target=kill_soon)

    def act(task, turn):
        if turn == 1:
            killer.start()
        return "wait(seconds=0.6)" if turn else "price(item='I1')"

    episode = play(world.env(), ScriptedPolicy(act), seed=0, task="test/reprice/0")
    killer.join()
    assert (episode.failure.kind, episode.failure.stage) == ("sandbox_lost", "call")
    assert episode.reward is None


def test_a_seed_function_that_fails_makes_the_episode_void(world, tmp_path):
    sandbox = world.spec.sandbox
    spec = shop(
        tmp_path,
        f"sandbox.backend={sandbox.backend}",
        f"sandbox.isolation={sandbox.level}",
        world=FAILS_IN_BOXES.replace("EVERY", "1"),
    )
    if sandbox.backend == "none":
        pytest.skip("the tasks are built by the same function")
    other = ToolWorld(spec)
    episode = played(other)
    other.close()
    assert (episode.failure.kind, episode.failure.stage) == ("seed_crashed", "open")
