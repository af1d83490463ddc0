"""Each preset runs in `envgym train` with the tiny model, learns, and records its settings."""

import pytest
import yaml
from rich.console import Console

from envgym.episode import Episode
from envgym_trainer.config.presets import preset_names
from envgym_trainer.run.folder import RunFolder
from envgym_trainer.training.launch import resolve, run_training

SMALL = [
    "train.checks.preflight=off",
    "train.model=tiny",
    "train.model.device=cpu",
    "train.warm_start.episodes=0",
    "train.steps=1",
    "train.rollout.groups_per_step=2",
    "train.rollout.group_size=3",
    "train.evaluation.tasks=1",
    "train.evaluation.base_tasks=0",
    "train.rollout.max_turn_tokens=4",
    "episode.max_turns=2",
    "reward.words={from: 'rewards.py:words'}",
]


@pytest.fixture
def guess(tmp_path):
    """Write the guessing game with a second reward part, so that rewards differ in a group."""
    from envgym.spec.catalog import find_env

    path = find_env("guess")
    text = path.read_text().replace("guess/", f"{path.parent}/guess/")
    (tmp_path / "guess.yaml").write_text(text)
    (tmp_path / "rewards.py").write_text(
        "def words(evidence):\n"
        "    return 0.1 * (sum(map(ord, evidence.final_message)) % 7) + 0.01 * evidence.turns\n"
    )
    return tmp_path


@pytest.mark.parametrize("preset", preset_names())
def test_a_run_with_each_preset(preset, guess):
    kl = ["train.algorithm.kl.coef=0.1"] if preset.startswith("reinforce_pp") else []
    spec, config, _ = resolve(str(guess / "guess.yaml"), [*SMALL, *kl, f"train.algorithm={preset}"])
    folder = RunFolder.create(guess, "run")
    run_training(spec, config, folder, console=Console(quiet=True))
    (step,) = [line for line in folder.metrics() if line["phase"] == "grpo"]
    assert step["grad_norm"] > 0
    assert step["optimizer/skipped_updates"] == 0
    assert yaml.safe_load(folder.config_file.read_text())["train"]["algorithm"]["preset"] == preset
    episodes = [e for _, phase, e in folder.episodes() if phase == "grpo"]
    for episode in episodes:
        assert len(episode.turn_rewards) == len(episode.turn_invalid_calls) == episode.turns
        assert sum(episode.turn_rewards) == pytest.approx(episode.reward)
        assert Episode.from_json(episode.to_json()) == episode


def test_a_correction_runs_with_several_updates_a_step(guess):
    settings = [
        "train.optimizer.updates_per_step=2",
        "train.algorithm={importance_weights: {mode: truncate}, advantage: {std: none}}",
    ]
    spec, config, _ = resolve(str(guess / "guess.yaml"), [*SMALL, *settings])
    folder = RunFolder.create(guess, "run")
    run_training(spec, config, folder, console=Console(quiet=True))
    (step,) = [line for line in folder.metrics() if line["phase"] == "grpo"]
    # the sampler computes like the trainer
    assert step["correction/weight"] == pytest.approx(1.0, abs=1e-3)
