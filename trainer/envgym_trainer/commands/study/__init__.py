"""Train in several ways over several seeds and compare, with intervals."""

from __future__ import annotations

import argparse
from pathlib import Path

from envgym.commands.arguments import add_settings
from envgym_trainer.commands.prerequisites import need_torch

EXAMPLE = "envgym study baselines envs/guess.yaml --seeds 3"


def add(parser: argparse.ArgumentParser) -> None:
    """Add the kind of study, the environment, the seeds and the arms."""
    parser.add_argument(
        "what",
        choices=["baselines", "algorithms", "arms"],
        help="baselines: base, SFT, GRPO, SFT+GRPO; algorithms: each after one SFT; "
        "arms: your own, given by --arm",
    )
    parser.add_argument("env", help="a YAML file, or the name or id of an environment")
    add_settings(parser, "settings of all runs, such as train.steps=20")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds, from 0 (default: 3)")
    parser.add_argument(
        "--names",
        default="",
        metavar="A,B",
        help="algorithms, such as grpo,gspo (default: all)",
    )
    parser.add_argument(
        "--arm",
        action="append",
        default=[],
        metavar="'NAME: key=value ...'",
        help="an arm with its settings, such as 'adaptive: train.reward_weights.mode=spread'; "
        "a name alone uses the default settings",
    )
    parser.add_argument(
        "--after-sft",
        action="store_true",
        help="start all arms from one warm start, which is also an arm",
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="folder of the runs (default: runs/study-ENV); finished runs in it are kept",
    )


def run(arguments: argparse.Namespace) -> int:
    """Train all arms and print the table."""
    need_torch()
    from envgym_trainer.commands.study.arms import run_command

    return run_command(arguments)
