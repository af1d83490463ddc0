"""A resumed run keeps its own settings, refuses others, and records the ones insisted on."""

import json
import shutil
import signal
import subprocess
import sys
import time

import pytest
import yaml

from envgym.errors import UsageError
from envgym.spec.environment import load_spec
from envgym_trainer import train
from envgym_trainer.config import TrainConfig
from envgym_trainer.run.folder import RunFolder
from envgym_trainer.run.lock import LOCK
from envgym_trainer.training.launch import start
from tests.fakes.shop_env import write as write_shop

BEGUN = [
    "train.model=tiny",
    "train.model.device=cpu",
    "train.algorithm=gdpo",
    "train.warm_start.episodes=0",
    "train.steps=1",
    "train.seed=7",
    "train.rollout.groups_per_step=2",
    "train.rollout.group_size=3",
    "train.rollout.max_turn_tokens=6",
    "train.optimizer.learning_rate=1e-6",
    "train.evaluation.tasks=2",
    "train.evaluation.base_tasks=0",
    "train.checks.preflight=off",
    "train.output.checkpoint_every_steps=1",
]


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """Return environment and folder of a run of one step."""
    place = tmp_path_factory.mktemp("begun")
    env = str(write_shop(place))
    assert start(env, BEGUN, out=place / "runs", name="r", resume=None) == 0
    return env, RunFolder.open(place / "runs" / "r")


def record_of(folder):
    return folder.config_file.read_bytes(), folder.facts_file.read_bytes()


def resume(begun, *settings, override=False):
    env, folder = begun
    return start(env, settings, out=folder.path, name=None, resume=folder.path, override=override)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (["train.seed=8"], ["train.seed: run has 7, command line has 8"]),
        (
            ["train.optimizer.learning_rate=0.5", "train.rollout.group_size=4"],
            [
                "train.optimizer.learning_rate: run has 1.0e-06, command line has 0.5",
                "train.rollout.group_size: run has 3, command line has 4",
            ],
        ),
        (
            ["reward={solved: {from: valid_calls}}"],
            ["command line has {solved: {from: valid_calls"],
        ),
        (["reward.solved.weight=2"], ["reward.solved.weight: run has 1.0, command line has 2.0"]),
        (["episode.max_turns=2"], ["episode.max_turns: run has 4, command line has 2"]),
        (["train.lora.alpha=64"], ["train.lora.alpha: run has 32.0, command line has 64.0"]),
        (["train.tasks.levels=[L0]"], ["train.tasks.levels: run has [], command line has [L0]"]),
        (["train.rollout.temperature=0.7"], ["train.rollout.temperature: run has 1.0"]),
        (["train.algorithm=rloo"], ["train.algorithm.advantage", "command line has {name: rloo}"]),
        (["train.algorithm=rloo"], ["train.algorithm.preset: run has gdpo, command line has rloo"]),
        (["prompt.system=Hello."], ["prompt.system: run has", "command line has Hello."]),
    ],
)
def test_other_settings_are_refused_with_the_list_of_differences(begun, settings, told):
    before = record_of(begun[1])
    with pytest.raises(UsageError, match="has other settings") as error:
        resume(begun, "train.steps=2", *settings)
    for line in told:
        assert line in str(error.value)
    assert "train.steps" not in str(error.value)
    assert "--override" in str(error.value)
    assert record_of(begun[1]) == before
    assert not begun[1].changes_file.exists()
    assert not (begun[1].path / LOCK).exists()


@pytest.fixture
def copy(begun, tmp_path):
    """Return environment and folder of a copy of the run."""
    place = shutil.copytree(begun[1].path.parent.parent, tmp_path / "copy")
    return str(place / "shop.yaml"), RunFolder.open(place / "runs" / "r")


def lines_of(folder):
    return [line for line in folder.metrics() if line["phase"] == "grpo"]


def test_a_run_that_is_resumed_without_settings_goes_on_with_its_own(copy, capsys):
    env, folder = copy
    before = record_of(folder)
    path = load_spec(env).path
    changed = path.read_text().replace("from: state_match", "from: state_match, weight: 3.0")
    assert changed != path.read_text()
    path.write_text(changed)
    # A setting that only lengthens the run, and settings that it has already, are no difference.
    assert resume(copy, *BEGUN, "train.steps=2") == 0
    said = capsys.readouterr().out
    assert "reward.solved.weight: run has 1.0" in said
    assert "has 3.0 today; the run's own setting is used" in said
    assert "train.seed" not in said.split("Next:")[0]
    assert "after step 1: train.steps: run has 1, this session has 2" in said
    first, second = lines_of(folder)
    assert first["episode/n"] == second["episode/n"] == 6
    assert second["learning_rate"] <= 1e-6
    episode = next(episode for step, phase, episode in folder.episodes() if step == 2)
    assert episode.reward_terms["solved"].weight == 1.0
    assert record_of(folder) == before
    (change,) = [json.loads(line) for line in folder.changes_file.read_text().splitlines()]
    assert (change["after_step"], change["settings"]) == (1, ["train.steps=2"])
    # The longer run is the run's own setting from now on.
    assert resume(copy) == 0
    assert len(lines_of(folder)) == 2


def test_other_settings_that_are_insisted_on_are_recorded_from_their_step_on(copy, capsys):
    _, folder = copy
    before = record_of(folder)
    settings = ["train.steps=2", "train.rollout.group_size=4", "train.optimizer.learning_rate=1e-3"]
    assert resume(copy, *settings, override=True) == 0
    assert "train.rollout.group_size: run has 3, this session has 4" in capsys.readouterr().out
    assert [line["episode/n"] for line in lines_of(folder)] == [6, 8]
    assert record_of(folder) == before
    assert yaml.safe_load(before[0])["train"]["rollout"]["group_size"] == 3
    (change,) = [json.loads(line) for line in folder.changes_file.read_text().splitlines()]
    assert change["after_step"] == 1
    assert set(change["settings"]) == {
        "train.steps=2",
        "train.rollout.group_size=4",
        "train.optimizer.learning_rate=0.001",
    }
    with pytest.raises(UsageError, match="group_size: run has 4, command line has 3"):
        resume(copy, "train.rollout.group_size=3")


def test_a_second_trainer_is_refused_while_the_first_is_alive_and_taken_over_when_it_is_killed(
    copy,
):
    env, folder = copy
    words = [sys.executable, "-m", "envgym", "train", env, "--resume", str(folder.path)]
    first = subprocess.Popen(
        [*words, "train.steps=400"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 400
    while len(lines_of(folder)) < 2:
        assert first.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    first.send_signal(signal.SIGSTOP)
    held = (folder.path / LOCK).read_bytes()
    second = subprocess.run(words, capture_output=True, text=True, timeout=400)
    assert second.returncode == 2
    assert f"is in use: process {first.pid} of" in second.stderr
    assert "Traceback" not in second.stderr
    assert (folder.path / LOCK).read_bytes() == held
    first.kill()
    first.wait()
    done = folder.latest_checkpoint()[0]
    assert start(env, [f"train.steps={done}"], out=folder.path, name=None, resume=folder.path) == 0
    steps = [line["step"] for line in lines_of(folder)]
    assert steps == list(range(1, done + 1))
    assert not (folder.path / LOCK).exists()


def test_python_refuses_other_settings_too_and_takes_the_runs_own_by_default(copy):
    env, folder = copy
    spec = load_spec(env, BEGUN)
    config = TrainConfig.of(spec.train).model_copy(update={"seed": 8})
    with pytest.raises(UsageError, match=r"train\.seed: run has 7, command line has 8"):
        train(spec, config, resume=folder.path)
    result = train(env, resume=folder.path)
    assert len(lines_of(result.folder)) == 1


def test_insisting_needs_a_run_to_resume(begun, tmp_path):
    with pytest.raises(UsageError, match="--override belongs to --resume"):
        start(begun[0], BEGUN, out=tmp_path, name="r", resume=None, override=True)
    assert list(tmp_path.iterdir()) == []
