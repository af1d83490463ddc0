"""A run that stops saves its progress and continues: Ctrl-C, or a world that breaks."""

import signal
import time

import pytest

from envgym.errors import TooManyFailures
from envgym_trainer.run.folder import RunFolder
from envgym_trainer.training.launch import start
from tests.fakes.processes import train_guess
from tests.fakes.shop_env import write as write_shop
from tests.trainer.training.runs import BREAKS_LATE, SMALL, run


def steps_of(path):
    """Return the GRPO steps that a run has finished."""
    if not (path / "metrics.jsonl").exists():
        return []
    return [m["step"] for m in RunFolder.open(path).metrics() if m["phase"] == "grpo"]


def test_ctrl_c_saves_and_resume_goes_on(tmp_path):
    settings = [
        *SMALL,
        "train.output.checkpoint_every_steps=0",
        "train.evaluation.validate_every_steps=0",
    ]
    process = train_guess(*settings, "train.steps=400", "--out", tmp_path, "--name", "r")
    deadline = time.monotonic() + 120
    while len(steps_of(tmp_path / "r")) < 3:
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=100)
    assert process.returncode == 130
    assert f"--resume {tmp_path / 'r'}" in said
    assert "Traceback" not in said
    done = RunFolder.open(tmp_path / "r").latest_checkpoint()[0]
    before = steps_of(tmp_path / "r")
    assert done == before[-1]  # although no checkpoint is due before the end, every step is saved
    assert (
        start(
            "guess",
            [*settings, f"train.steps={done}"],
            out=tmp_path,
            name=None,
            resume=tmp_path / "r",
        )
        == 0
    )
    assert steps_of(tmp_path / "r") == list(range(3, done + 3))


def test_a_run_whose_world_breaks_saves_and_stops_with_the_reason_and_goes_on_once_it_is_repaired(
    tmp_path, capsys
):
    (tmp_path / "rewards.py").write_text(BREAKS_LATE)
    settings = [
        *SMALL,
        "train.warm_start.episodes=0",
        "train.steps=3",
        "train.evaluation.base_tasks=0",
        "train.evaluation.validate_every_steps=0",
        "train.output.checkpoint_every_steps=0",
        "reward.late={from: rewards.py:breaks_late}",
        "train.checks.preflight=off",
    ]
    env = str(write_shop(tmp_path))
    out = tmp_path / "runs"
    assert start(env, settings, out=out, name="r", resume=None) == 1
    said = capsys.readouterr().out
    for words in (
        "episode.max_void_fraction allows 25%",
        "reward_raised in score",
        "grader down",
        "episodes.jsonl",
        f"--resume {out / 'r'}",
    ):
        assert words in said
    folder = RunFolder.open(out / "r")
    assert folder.latest_checkpoint()[0] == 1  # the first step has its eight episodes; none is lost
    last = folder.metrics()[-1]
    assert (last["step"], last["failures/reward_raised"]) == (2, 2 * last["episode/void"])
    assert [e.is_void for step, _, e in folder.episodes() if step == 2] == [True] * int(
        last["episode/void"]
    )
    (tmp_path / "repaired").touch()
    assert start(env, settings, out=out, name=None, resume=folder.path) == 0
    assert steps_of(folder.path) == [1, 2, 3]


def test_a_warm_start_in_a_broken_world_stops_too(tmp_path):
    (tmp_path / "rewards.py").write_text(
        "def broken(evidence):\n    return 1 / 0 if evidence.task.level == 'L0' else 0.0\n"
    )
    env = write_shop(tmp_path)
    settings = [
        "reward.bad={from: rewards.py:broken}",
        "train.warm_start.episodes=80",
        "train.warm_start.episodes_per_step=8",
        "train.evaluation.base_tasks=0",
        "train.checks.preflight=off",
    ]
    with pytest.raises(TooManyFailures, match="reward_raised in score"):
        run(tmp_path / "r", *settings, env=env)
    folder = RunFolder.open(tmp_path / "r")
    lines = [m for m in folder.metrics() if m["phase"] == "warmup"]
    # the last line is that of the abandoned step
    assert folder.latest_checkpoint()[0] == len(lines) - 1
    # more than a quarter of sixteen attempts
    assert sum(m.get("failures/stage/score", 0) for m in lines) >= 5
