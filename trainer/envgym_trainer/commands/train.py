"""Train a small open model on an environment with GRPO and LoRA."""

from __future__ import annotations

import argparse
from pathlib import Path

from envgym.commands.arguments import add_env
from envgym_trainer.commands.prerequisites import need_torch

EXAMPLE = "envgym train envs/crm.yaml train.steps=40"


def add(parser: argparse.ArgumentParser) -> None:
    """Add the environment and the folder of the run."""
    add_env(parser)
    parser.add_argument(
        "--out", type=Path, default=Path("runs"), help="folder of the runs (default: runs)"
    )
    parser.add_argument(
        "--name", help="name of this run's folder (default: the environment's name)"
    )
    parser.add_argument(
        "--resume",
        type=Path,
        metavar="RUN",
        help="resume a stopped run, such as runs/crm, with its own settings",
    )
    parser.add_argument(
        "--override",
        action="store_true",
        help="with --resume: continue with settings that differ from the run's own",
    )


def run(arguments: argparse.Namespace) -> int:
    """Train, evaluate and export the adapter."""
    need_torch()
    from envgym_trainer.training.launch import start

    return start(
        arguments.env,
        arguments.settings,
        out=arguments.out,
        name=arguments.name,
        resume=arguments.resume,
        override=arguments.override,
    )
