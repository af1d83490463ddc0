"""A run with one reward part of each kind, for the tests of `envgym explain`."""

import pytest

from tests.fakes.shop_env import write as write_shop
from tests.trainer.commands.explained import MIXED, MORE
from tests.trainer.learner.test_mismatch_run import SETTINGS, WORDY
from tests.trainer.rollout.scored_groups import PARTS
from tests.trainer.training.runs import run


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """Run two steps after a warm start of two steps, with one reward part of each kind."""
    root = tmp_path_factory.mktemp("explain")
    (root / "parts.py").write_text(PARTS + MORE)
    (root / "rewards.py").write_text(WORDY)
    settings = [
        *SETTINGS,
        *MIXED,
        "train.warm_start.episodes=8",
        "train.steps=2",
        "train.reward_weights={mode: spread, rate: 0.5}",
    ]
    return run(root / "runs" / "shop", *settings, env=str(write_shop(root)))[1]
