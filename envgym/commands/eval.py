"""Measure the success rate of a policy on held-out tasks."""

from __future__ import annotations

import argparse

from envgym.commands.arguments import add_env, add_seed, add_split, load_env

EXAMPLE = "envgym eval envs/crm.yaml --policy adapter:runs/crm/adapter --levels L0,L1"


def add(parser: argparse.ArgumentParser) -> None:
    """Add the environment, the policies and the choice of tasks."""
    add_env(parser)
    parser.add_argument(
        "--policy",
        required=True,
        action="append",
        metavar="POLICY",
        help=(
            "oracle | noop | refuse | random | model:NAME | adapter:PATH | openai:URL[#MODEL] | "
            "file.py:NAME; repeat to compare several"
        ),
    )
    add_split(parser, "test")
    parser.add_argument(
        "--levels", default="", help="comma-separated levels, such as L0,L1 (default: all)"
    )
    parser.add_argument(
        "--tasks", type=int, help="number of tasks (default: the whole split, 100 for train)"
    )
    add_seed(parser)
    parser.add_argument(
        "--temperature",
        type=float,
        help="sampling temperature (default: as the adapter or the YAML's train: block says)",
    )
    parser.add_argument(
        "--max-turn-tokens", type=int, metavar="N", help="maximum tokens of one answer"
    )
    parser.add_argument(
        "--max-context-tokens", type=int, metavar="N", help="maximum tokens of a dialogue"
    )
    parser.add_argument(
        "--workers", type=int, default=64, help="maximum number of parallel episodes"
    )
    parser.add_argument("--json", action="store_true", help="print exact numbers as JSON")
    parser.add_argument(
        "--episodes", metavar="FILE", help="also write every episode to this JSONL file"
    )


def run(arguments: argparse.Namespace) -> None:
    """Evaluate each policy and print a table."""
    from envgym.evaluation.evaluate import evaluate
    from envgym.evaluation.report import print_outcomes
    from envgym.policies import SamplingOverrides
    from envgym.policies.registry import open_policy
    from envgym.registration import make_world

    sampling = SamplingOverrides(
        arguments.temperature, arguments.max_turn_tokens, arguments.max_context_tokens
    )
    world = make_world(load_env(arguments))
    try:
        levels = tuple(filter(None, arguments.levels.split(",")))
        outcomes = [
            evaluate(
                world,
                open_policy(name, world, sampling=sampling),
                name=name,
                split=arguments.split,
                levels=levels,
                tasks=arguments.tasks,
                seed=arguments.seed,
                workers=arguments.workers,
                progress=not arguments.json,
                episodes_file=arguments.episodes,
            )
            for name in arguments.policy
        ]
        print_outcomes(outcomes, as_json=arguments.json)
    finally:
        world.close()
