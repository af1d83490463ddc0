"""Tool environments keep Gymnasium's interface: checks, vectors, seeds, threads."""

import asyncio
import shutil
import subprocess
import sys
import warnings

import gymnasium as gym
import pytest
from gymnasium.utils.env_checker import check_env

import envgym
from envgym.env import ToolWorld
from tests.fakes.shop_env import shop, write


@pytest.fixture
def world(tmp_path):
    world = ToolWorld(shop(tmp_path))
    yield world
    world.close()


@pytest.fixture
def env(world):
    return world.env()


def solve(env):
    call = env.unwrapped.task.oracle[0]
    return f"{call.name}({', '.join(f'{k}={v!r}' for k, v in call.arguments.items())})"


def test_two_episodes_at_once_do_not_see_each_other(world):
    one = world.env()
    two = world.env()
    one.reset(options={"task": "test/reprice/0"})
    two.reset(options={"task": "test/reprice/0"})
    one.step(solve(one))
    assert (one.step("Done.")[1], two.step("Done.")[1]) == (1.0, 0.0)


def test_check_env_has_nothing_to_say(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gym.make(envgym.register(write(tmp_path)))
        check_env(env.unwrapped)
        env.close()


WORDS = """\
id: test/words-v0
prompt: {system: Answer with a number.}
tools: []
state: {schema: schema.sql, seed: world.py:build}
tasks: {from: tasks.py, val: 6, test: 6}
"""
ASKING = """\
from envgym import Draw, template

@template(level="L0")
def cost(draw: Draw):
    item = draw.row("SELECT * FROM items")
    answer = str(item["price"])
    asked = f"{item['name']} costs {answer}. What does it cost?"
    return draw.task(prompt=asked, final=f"{answer}.", facts=[answer])
"""


@pytest.mark.parametrize("backend", ["none", "local", "bubblewrap"])
def test_an_environment_without_tools_is_played_in_words(tmp_path, backend):
    if backend == "bubblewrap" and shutil.which("bwrap") is None:
        pytest.skip("NOT TESTED, no bubblewrap: install the package `bubblewrap`")
    name = envgym.register(write(tmp_path, yaml=WORDS, tasks=ASKING))
    env = gym.make(name, overrides=[f"sandbox.backend={backend}"]).unwrapped
    try:
        _, info = env.reset(options={"task": "test/cost/0"})
        assert info["tools"] == []
        assert info["messages"][0]["content"] == "Answer with a number."
        assert env.step(env.get_wrapper_attr("task").final)[1:4] == (1.0, True, False)
        env.reset(options={"task": "test/cost/0"})
        assert env.step("Done.")[1:4] == (0.0, True, False)
        env.reset(options={"task": "test/cost/0"})
        call = '<tool_call>{"name": "tell", "arguments": {}}</tool_call>'
        assert env.step(call)[:4] == ("error: unknown tool 'tell'; tools: none", 0.0, False, False)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            check_env(env)
    finally:
        env.close()


@pytest.mark.parametrize("name", ["envgym/crm-v0", "envgym/guess-v0"])
def test_the_shipped_environments_pass_check_env(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gym.make(name, overrides=["sandbox.backend=local"])
        check_env(env.unwrapped)
        env.close()


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_vector_environments_carry_the_right_text(tmp_path, mode):
    name = envgym.register(write(tmp_path))
    envs = gym.make_vec(name, num_envs=3, vectorization_mode=mode, split="test")
    try:
        observations, infos = envs.reset(seed=[1, 2, 3])
        alone = gym.make(name, split="test")
        assert list(observations) == [alone.reset(seed=seed)[0] for seed in (1, 2, 3)]
        observations, rewards, terminated, *_ = envs.step(
            ["tell(text='prose, with spaces: où?')", "price(item='I9')", "Done."]
        )
        assert observations[0].endswith("prose, with spaces: où?")
        assert observations[1] == "error: no item I9"
        assert list(terminated) == [False, False, True]
    finally:
        envs.close()


def test_make_works_by_module_name_without_an_import():
    code = (
        "import gymnasium as gym; env = gym.make('envgym:envgym/guess-v0');"
        " print(type(env.reset(seed=0)[0])); env.close()"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert (done.stdout.strip(), done.returncode) == ("<class 'str'>", 0), done.stderr


def test_seeds_give_the_same_episodes_from_many_threads(world):
    def tasks(seed):
        env = world.env()
        return [env.reset(seed=seed)[0], env.reset()[0], env.reset()[0]]

    async def all_at_once():
        return await asyncio.gather(*(asyncio.to_thread(tasks, seed) for seed in [5, 6] * 8))

    found = asyncio.run(all_at_once())
    assert all(three == found[n % 2] for n, three in enumerate(found))
    assert found[0] != found[1]


def test_render_gives_the_conversation(world):
    env = world.env(render_mode="ansi")
    env.reset(options={"task": "test/reprice/0"})
    env.step("tell(text='hi')")
    assert "[assistant] tell(text='hi')\n[tool] 2026-01-05T09:00:00 hi" in env.render()
