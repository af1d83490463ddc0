"""`envgym check` for foreign Gymnasium environments."""

import inspect
import sys

import gymnasium as gym
import pytest

from envgym.evaluation.checks import check
from envgym.spaces import UnicodeText
from envgym.spec.environment import load_spec


class Steady(gym.Env):
    """Environment with three steps of text that depends only on the seed."""

    observation_space = action_space = UnicodeText()

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = 3
        return f"number {self.np_random.integers(10**6)}", {}

    def step(self, action):
        self.left -= 1
        return f"{self.left} left", 0.0, self.left == 0, False, {}


class Deaf(Steady):
    """Environment that ignores the seed."""

    def reset(self, *, seed=None, options=None):
        return "always " + super().reset(seed=1)[0], {}


@pytest.fixture
def foreign(tmp_path, monkeypatch):
    """An importable third-party package that registers two environments."""
    classes = (
        "from __future__ import annotations\nimport gymnasium as gym\n"
        "from envgym.spaces import UnicodeText\n\n"
    )
    source = classes + inspect.getsource(Steady) + "\n\n" + inspect.getsource(Deaf)
    source += (
        "\n\ngym.register('Steady-v0', entry_point=Steady)\n"
        "gym.register('Deaf-v0', entry_point=Deaf)\n"
    )
    (tmp_path / "foreign_texts.py").write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "foreign_texts", raising=False)

    def make(name):
        (tmp_path / "env.yaml").write_text(
            f"id: test/foreign-v0\ngym: foreign_texts:{name}-v0\n", encoding="utf-8"
        )
        return load_spec(tmp_path / "env.yaml")

    yield make
    for name in ("Steady-v0", "Deaf-v0"):
        gym.registry.pop(name, None)


def test_a_foreign_environment_is_checked_for_its_seeds(foreign):
    assert [(result.id, result.passed) for result in check(foreign("Steady"))] == [
        ("seed_control", True),
        ("episode_determinism", True),
        ("verifier_determinism", True),
    ]


def test_a_foreign_environment_that_ignores_its_seed_is_found_out(foreign):
    results = {result.id: result for result in check(foreign("Deaf"))}
    assert not results["seed_control"].passed
    assert (
        "12 different seeds returned the same first observation" in results["seed_control"].detail
    )
