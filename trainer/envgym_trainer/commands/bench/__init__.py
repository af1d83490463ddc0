"""Measure the cost of a training run on this machine, and recommend settings."""

from __future__ import annotations

import argparse

from envgym.commands.arguments import add_env
from envgym_trainer.commands.prerequisites import need_torch

EXAMPLE = "envgym bench envs/crm.yaml train.rollout.group_size=16"


def add(parser: argparse.ArgumentParser) -> None:
    """Add the environment and the number of steps."""
    add_env(parser)
    parser.add_argument("--steps", type=int, default=2, help="GRPO steps to measure (default: 2)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Print the measured cost."""
    need_torch()
    from envgym_trainer.commands.bench.cost import run_command

    return run_command(arguments)
