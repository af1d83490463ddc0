"""Each program of `examples/` runs, and does what its docstring promises."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

import envgym
from tests.e2e.doors import ROOT
from tests.fakes.taught_model import served

FOLDER = ROOT / "examples"
PROGRAMS = sorted(FOLDER.glob("[0-9]*.py"))
TINY = [
    "train.steps=1",
    "train.rollout.groups_per_step=2",
    "train.rollout.group_size=2",
    "train.warm_start.episodes=16",
    "train.evaluation.tasks=4",
    "train.evaluation.base_tasks=4",
    "train.checks.preflight=off",
]
"""Settings of a run that ends within seconds."""


def program(number: int) -> ModuleType:
    """Return a program as a module; its `main` has not run."""
    (path,) = FOLDER.glob(f"{number:02}_*.py")
    spec = importlib.util.spec_from_file_location(f"example_{number:02}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module
    spec.loader.exec_module(module)
    return module


def test_there_are_nine_programs():
    assert [path.name[:2] for path in PROGRAMS] == [f"{number:02}" for number in range(1, 10)]


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_a_program_is_short_and_begins_with_its_question(path: Path):
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) < 60
    assert lines[0].startswith('"""')
    assert any(line.startswith(f"python examples/{path.name}") for line in lines)


def test_01_the_oracle_solves_a_task_of_the_crm():
    episode = program(1).main()
    assert episode.success
    assert episode.reward_terms["solved"].contribution == episode.reward


def test_02_an_own_environment_is_solved_by_hand():
    assert program(2).main() == ("ok", 1.0, True)


def test_03_a_gated_part_pays_only_for_solved_tasks():
    solved, refused = program(3).main()
    assert (solved.reward, refused.reward) == (1.5, 0.0)


def test_04_policies_play_the_same_tasks():
    oracle, random, fixed = program(4).main()
    assert oracle.total.rate == 1.0
    assert oracle.total.n == random.total.n == fixed.total.n == 40
    assert 0 < fixed.total.rate < 1


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return program(5).main(TINY, out=str(tmp_path_factory.mktemp("runs")))


def test_05_training_ends_in_an_adapter(trained):
    assert (trained.adapter / "adapter_model.safetensors").is_file()
    assert list(trained.outcomes) == ["base model", "warm start", "trained"]


def test_06_the_own_loss_is_used(tmp_path):
    result = program(6).main(TINY, out=str(tmp_path))
    assert "soft_clip" in result.folder.config_file.read_text(encoding="utf-8")


def test_07_the_adapter_plays(trained):
    assert program(7).main(trained.adapter, tasks=2).played == 2


def test_08_a_foreign_environment_is_evaluated():
    fixed, random = program(8).main()
    assert fixed.total.rate == 1.0
    assert random.total.rate < 1.0


def test_09_a_plain_client_plays_as_the_policy_does(trained):
    with served(str(trained.adapter), "--name", "guess") as (_, url):
        rate = program(9).main(f"{url}/v1", "guess", tasks=6)
    world = envgym.make_world(envgym.load_spec("guess"))
    policy = envgym.open_policy(f"adapter:{trained.adapter}", world)
    try:
        env = world.env(split="test")
        found = [envgym.play(env, policy, seed=seed).success for seed in range(6)]
    finally:
        world.close()
    assert rate == sum(map(bool, found)) / 6
