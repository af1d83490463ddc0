"""Every shipped environment trains with its own `train:` block at reduced size.

Its warm start shows solutions that solve its tasks.
"""

import importlib.util
import json
from pathlib import Path

import pytest

from envgym.spec.environment import load_spec
from tests.fakes.kiosk_app import need_docker
from tests.trainer.training.runs import run

ENVS = sorted((Path(__file__).parents[3] / "envs").glob("*.yaml"))
LESS = [
    "train.model=tiny",
    "train.model.device=cpu",
    "train.checks.preflight=off",
    "train.warm_start.episodes=2",
    "train.warm_start.episodes_per_step=2",
    "train.steps=1",
    "train.rollout.groups_per_step=1",
    "train.rollout.group_size=2",
    "train.rollout.max_turn_tokens=8",
    "train.rollout.max_context_tokens=2048",
    "train.evaluation.tasks=1",
    "train.evaluation.base_tasks=0",
    "train.evaluation.validation_tasks=1",
    "train.output.checkpoint_every_steps=0",
]
NEEDS = {"selftrain": "reasoning_gym", "notes": "mcp", "report": "resvg_py"}


@pytest.mark.parametrize(
    "env",
    [
        pytest.param(env, id=env.stem, marks=[pytest.mark.docker] * (env.stem == "workspace"))
        for env in ENVS
    ],
)
def test_an_environment_that_ships_trains_by_its_own_settings(env, tmp_path):
    if importlib.util.find_spec(NEEDS.get(env.stem, "json")) is None:
        pytest.skip(
            f"NOT TESTED, {NEEDS[env.stem]} is not installed: "
            "pip install 'envgym[images,mcp,puzzles]'"
        )
    if env.stem == "workspace":
        need_docker()
    more = ["train.plan.pool_size=4"] if load_spec(env).train.get("plan") else []
    outcomes, folder = run(tmp_path / "r", *LESS, *more, env=env)
    assert list(outcomes) == ["warm start", "trained"]
    lines = [json.loads(line) for line in folder.episodes_file.read_text().splitlines()]
    assert not any(line["failure"] for line in lines)
    assert {line["phase"] for line in lines} == {"grpo", "eval"}
    [warm] = [line for line in folder.metrics() if line["phase"] == "warmup"]
    assert warm["batch/action_tokens"] > 2
