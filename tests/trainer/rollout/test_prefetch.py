"""Prefetch in whole runs: rollouts overlap with learning, one step off-policy.

The step after a checkpoint or a validation is played afresh, so that a run can resume there.
"""

import threading

import pytest
import torch

from envgym.errors import TooManyFailures, UsageError
from envgym_trainer.inference.in_process.engine import InProcessEngine
from envgym_trainer.learner.learner import Learner
from envgym_trainer.run.folder import RunFolder
from envgym_trainer.training.launch import resolve
from tests.fakes.shop_env import write as write_shop
from tests.trainer.learner.test_mismatch_run import SETTINGS, WORDY, lines
from tests.trainer.training.runs import BREAKS_LATE, run

AHEAD = [*SETTINGS, "train.rollout.one_step_ahead=true", "train.steps=4"]


@pytest.fixture
def env(tmp_path):
    (tmp_path / "rewards.py").write_text(WORDY)
    return str(write_shop(tmp_path))


def test_the_next_step_is_played_while_this_one_is_learned_from(env, tmp_path, monkeypatch):
    replied = threading.Event()
    learned = []
    submit = InProcessEngine.submit
    learn = Learner.update

    def seen(self, turn):
        submit(self, turn)
        replied.set()

    def waiting(self, samples, settings, **options):
        if len(learned) < 3:  # after every step but the last, another one follows
            assert replied.wait(60), "nobody played while the learner waited for it"
        learned.append(len(samples))
        return learn(self, samples, settings, **options)

    def refresh(self, model=None, original=InProcessEngine.load_adapter):
        replied.clear()
        original(self, model)

    monkeypatch.setattr(InProcessEngine, "submit", seen)
    monkeypatch.setattr(InProcessEngine, "load_adapter", refresh)
    monkeypatch.setattr(Learner, "update", waiting)
    run(tmp_path / "r", *AHEAD, env=env)
    assert len(learned) == 4


def test_what_was_played_ahead_is_one_step_off_and_its_ratio_says_so(env, tmp_path):
    _, folder = run(tmp_path / "r", *AHEAD, env=env)
    first, *others = lines(folder)
    assert first["off_policy/mismatch_max"] < 1e-4
    assert len(others) == 3
    for line in others:
        assert "off_policy/mismatch_max" not in line
        assert line["off_policy/staleness_max"] > 1e-4
        assert 0 < line["off_policy/ess"] < 1


def test_a_step_after_a_checkpoint_or_a_validation_is_played_afresh(env, tmp_path):
    for number, setting in enumerate(
        ("train.output.checkpoint_every_steps=2", "train.evaluation.validate_every_steps=2")
    ):
        _, folder = run(tmp_path / f"r{number}", *AHEAD, setting, env=env)
        assert ["off_policy/staleness_max" in line for line in lines(folder)] == [
            False,
            True,
            False,
            True,
        ]


def test_a_run_that_was_stopped_goes_on_with_fresh_episodes(env, tmp_path):
    _, folder = run(tmp_path / "r", *AHEAD, "train.steps=2", env=env)
    _, folder = run(folder.path, *AHEAD, env=env, resume=True)
    assert [line["step"] for line in lines(folder)] == [1, 2, 3, 4]
    assert "off_policy/mismatch_max" in lines(folder)[2]
    assert (
        torch.load(folder.latest_checkpoint()[1] / "learner.pt", weights_only=True)["updates"] == 4
    )


def test_a_world_that_breaks_while_a_step_is_learned_from_loses_nothing_of_that_step(tmp_path):
    # after eight episodes, that is during the second step
    (tmp_path / "rewards.py").write_text(BREAKS_LATE + WORDY)
    env = str(write_shop(tmp_path))
    with pytest.raises(TooManyFailures, match="grader down"):
        run(tmp_path / "r", *AHEAD, "reward.late={from: rewards.py:breaks_late}", env=env)
    folder = RunFolder.open(tmp_path / "r")
    first, second = lines(folder)
    assert (folder.latest_checkpoint()[0], first["step"], second["step"]) == (1, 1, 2)
    assert first["grad_norm"] > 0
    assert second["failures/reward_raised"] == 2 * second["episode/void"] > 0
    steps = [step for step, *_ in folder.episodes()]
    assert steps == sorted(steps)
    assert not [
        thread.name for thread in threading.enumerate() if thread.name.startswith("envgym-ahead")
    ]


def test_playing_in_step_and_ahead_at_once_is_refused():
    with pytest.raises(UsageError, match="one_step_ahead at once"):
        resolve("guess", ["train.rollout.one_step_ahead=true", "train.rollout.deterministic=true"])
