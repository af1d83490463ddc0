"""Check whether a training run can learn, before starting it."""

from __future__ import annotations

import argparse

from envgym.commands.arguments import add_env, add_json
from envgym_trainer.commands.prerequisites import need_torch

EXAMPLE = "envgym preflight envs/crm.yaml train.warm_start.episodes=0"


def add(parser: argparse.ArgumentParser) -> None:
    """Add the environment and the choice of checks."""
    add_env(parser)
    parser.add_argument(
        "--fast", action="store_true", help="run only the short checks that each training runs"
    )
    parser.add_argument(
        "--prompt",
        action="store_true",
        help="print the first prompt too, exactly as the model reads it",
    )
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the results and return 1 if a check fails."""
    need_torch()
    from envgym.evaluation.checks import print_checks
    from envgym.text.terminal import Console, cell, print_line
    from envgym_trainer.preflight import open_preflight, run_preflight
    from envgym_trainer.preflight.conversation import first_prompt
    from envgym_trainer.training.launch import resolve

    spec, config, _ = resolve(arguments.env, arguments.settings)
    console = Console(stderr=True)
    with (
        console.status("opening") as status,
        open_preflight(spec, config, is_full=not arguments.fast, notify=console.print) as subject,
    ):
        results = run_preflight(subject, progress=lambda name: status.update(cell(name)))
        prompt = first_prompt(subject) if arguments.prompt else ""
    if prompt and not arguments.json:
        print_line(prompt)
    print_checks(results, as_json=arguments.json)
    return 0 if all(result.passed for result in results) else 1
