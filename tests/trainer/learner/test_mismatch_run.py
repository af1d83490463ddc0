"""Off-policy metrics and the mismatch alarm in whole runs of `envgym train`."""

import pytest
import torch

from envgym_trainer.inference.in_process.engine import InProcessEngine
from envgym_trainer.learner.off_policy import SamplerMismatch
from envgym_trainer.run.folder import RunFolder
from envgym_trainer.training.launch import start
from tests.fakes.shop_env import write as write_shop
from tests.trainer.training.runs import SMALL

WORDY = """\
import zlib

def wordy(evidence):
    return zlib.crc32(evidence.final_message.encode()) % 7 / 7  # differs in every group
"""
SETTINGS = [
    "train.checks.preflight=off",
    *SMALL,
    "train.warm_start.episodes=0",
    "train.steps=3",
    "train.evaluation.base_tasks=0",
    "train.evaluation.validate_every_steps=0",
    "train.evaluation.tasks=1",
    "train.output.checkpoint_every_steps=0",
    "train.optimizer.learning_rate=1e-2",
    "train.optimizer.warmup_updates=0",
    "reward.wordy={from: rewards.py:wordy}",
]


@pytest.fixture
def env(tmp_path):
    (tmp_path / "rewards.py").write_text(WORDY)
    return str(write_shop(tmp_path))


def lines(folder):
    return [m for m in folder.metrics() if m["phase"] == "grpo"]


def test_each_step_tells_mismatch_staleness_and_ess_in_its_line_and_on_its_curves(env, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings = [
        *SETTINGS,
        "train.optimizer.updates_per_step=2",
        "train.optimizer.epochs_per_step=3",
        "train.checks.on_mismatch=stop",
        "train.optimizer.learning_rate=1e-3",
    ]
    assert start(env, settings, out=tmp_path / "runs", name="r", resume=None) == 0
    folder = RunFolder.open(tmp_path / "runs" / "r")
    assert len(lines(folder)) == 3
    for line in lines(folder):
        assert line["off_policy/mismatch_max"] < 1e-4 < line["off_policy/staleness_max"]
        assert line["off_policy/mismatch_mean"] < 1e-5 < line["off_policy/staleness_mean"]
        assert 0 < line["off_policy/ess"] < 1
        assert line["off_policy/mismatch_alarm"] == 0.0
    learner = torch.load(folder.latest_checkpoint()[1] / "learner.pt", weights_only=True)
    assert learner["updates"] == 3 * 2 * 3  # steps, minibatches, epochs
    curves = set(EventAccumulator(str(folder.path)).Reload().Tags()["scalars"])
    assert {
        "off_policy/mismatch_max",
        "off_policy/staleness_mean",
        "off_policy/ess",
        "off_policy/mismatch_alarm",
    } <= curves


def test_a_sampler_that_stays_behind_stops_the_run_before_it_learns_or_is_told_of_once(
    env, tmp_path, monkeypatch, capsys
):
    # trap 6: the adapter is never refreshed
    monkeypatch.setattr(InProcessEngine, "load_adapter", lambda self, model=None: None)
    # without a refresh a sleeping engine would not answer
    monkeypatch.setattr(InProcessEngine, "sleep", lambda self: None)
    out = tmp_path / "runs"
    with pytest.raises(
        SamplerMismatch,
        match=r"was not trained; all earlier steps are saved.*on_mismatch=warn",
    ):
        start(env, [*SETTINGS, "train.checks.on_mismatch=stop"], out=out, name="r", resume=None)
    folder = RunFolder.open(out / "r")
    step, path = folder.latest_checkpoint()
    # in step 1 the sampler still has the same adapter
    assert (step, [m["step"] for m in lines(folder)]) == (
        1,
        [1],
    )
    assert torch.load(path / "learner.pt", weights_only=True)["updates"] == 1
    capsys.readouterr()
    warn = [*SETTINGS, "train.checks.on_mismatch=warn"]
    assert start(env, warn, out=out, name=None, resume=folder.path) == 0
    assert [m["off_policy/mismatch_alarm"] for m in lines(folder)] == [0.0, 1.0, 1.0]
    assert (
        " ".join(capsys.readouterr().out.split()).count("WARNING: sampler and trainer disagree")
        == 1
    )
