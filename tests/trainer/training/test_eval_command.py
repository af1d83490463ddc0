"""The command printed at the end of a run reproduces the table of that run."""

import json
import shlex

from envgym.commands import main
from envgym_trainer.run.folder import RunFolder

SETTINGS = [
    "prompt.tools=compact",
    "train.model=tiny",
    "train.seed=3",
    "train.warm_start.episodes=32",
    "train.warm_start.learning_rate=1e-2",
    "train.steps=1",
    "train.rollout.groups_per_step=1",
    "train.rollout.group_size=2",
    "train.rollout.max_turn_tokens=11",
    "train.evaluation.tasks=12",
    "train.evaluation.split=val",
    "train.evaluation.temperature=0.8",
    "train.evaluation.base_tasks=0",
    "train.checks.preflight=off",
]


def test_the_printed_command_measures_what_the_table_shows(tmp_path, capsys):
    assert main(["train", "guess", *SETTINGS, "--out", str(tmp_path), "--name", "r"]) == 0
    printed = capsys.readouterr().out
    (line,) = [line.strip() for line in printed.splitlines() if "envgym eval" in line]
    run = RunFolder.open(tmp_path / "r")
    assert line == (
        f"envgym eval guess prompt.tools=compact --policy adapter:{run.adapter} "
        "--split val --tasks 12 --seed 3"
    )
    table = [line for line in run.metrics() if line["phase"] == "eval"][-1]
    manifest = json.loads((run.adapter / "manifest.json").read_text())
    assert manifest["sampling"]["max_turn_tokens"] == 11
    assert manifest["largest_logit_difference"] <= 1e-5
    assert "the largest difference of a logit is" in (run.adapter / "README.md").read_text()
    episodes = tmp_path / "again.jsonl"
    assert main([*shlex.split(line)[1:], "--json", "--episodes", str(episodes)]) == 0
    capsys.readouterr()
    again = [json.loads(text) for text in episodes.read_text().splitlines()]
    evaluated = [
        json.loads(episode.to_json()) for _, phase, episode in run.episodes() if phase == "eval"
    ]
    before = evaluated[-12:]
    assert [each["task_id"] for each in again] == [each["task_id"] for each in before]
    assert [each["messages"] for each in again] == [each["messages"] for each in before]
    rewards = [each["reward"] for each in again]
    assert sum(rewards) / 12 == table["eval/reward"]
