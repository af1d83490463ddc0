"""Test an environment and its grader: oracle, floors, determinism, leaks."""

from __future__ import annotations

import argparse

from envgym.commands.arguments import add_env, add_json, load_env, positive

EXAMPLE = "envgym check envs/crm.yaml"


def add(parser: argparse.ArgumentParser) -> None:
    """Add the environment and the number of tasks."""
    add_env(parser)
    parser.add_argument(
        "--tasks",
        type=positive,
        help="tasks per split (default: all of val and test, 100 of train)",
    )
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run all checks and return 1 if one fails."""
    from envgym.evaluation.checks import check, print_checks
    from envgym.text.terminal import Console, cell

    spec = load_env(arguments)
    with Console(stderr=True).status("checking") as status:  # visible on a terminal only
        results = check(
            spec,
            tasks_per_split=arguments.tasks,
            progress=lambda check, played: status.update(cell(f"{check}: {played} episodes")),
        )
    print_checks(results, as_json=arguments.json)
    return 0 if all(result.passed for result in results) else 1
