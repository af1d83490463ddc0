"""Measure the sandbox of an environment by replaying its oracle's calls."""

from __future__ import annotations

import argparse

from envgym.commands.arguments import add_env, add_json, positive
from envgym.text import to_json
from envgym.text.terminal import print_line

EXAMPLE = "envgym sandbox bench crm --backend docker --sessions 8 --episodes 200"


def add(parser: argparse.ArgumentParser) -> None:
    """Add the environment, the backend and the size of the workload."""
    add_env(parser)
    parser.add_argument(
        "--backend", metavar="NAME", help="override the environment's sandbox.backend"
    )
    parser.add_argument(
        "--isolation", metavar="LEVEL", help="override the environment's sandbox.isolation"
    )
    parser.add_argument(
        "--sessions", type=positive, default=8, help="concurrent episodes (default: 8)"
    )
    parser.add_argument(
        "--episodes", type=positive, default=200, help="total number of episodes (default: 200)"
    )
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the measurements and return 1 if an episode was void."""
    from envgym.commands.sandbox.measure import lines, measure_sandbox
    from envgym.spec.environment import load_spec

    chosen = {"backend": arguments.backend, "isolation": arguments.isolation}
    settings = [
        *arguments.settings,
        *(f"sandbox.{name}={value}" for name, value in chosen.items() if value),
    ]
    report = measure_sandbox(
        load_spec(arguments.env, settings),
        sessions=arguments.sessions,
        episodes=arguments.episodes,
        progress=not arguments.json,
    )
    if arguments.json:
        print(to_json(report.to_dict(), indent=2))
    else:
        print_line("\n".join(lines(report)))
    return 1 if report.played.void else 0
