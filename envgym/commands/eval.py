"""Measure the success rate of a policy on held-out tasks."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from envgym.commands.arguments import (
    add_env,
    add_seed,
    add_split,
    positive,
    print_credentials,
    temperature,
)
from envgym.errors import UsageError

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
    parser.add_argument("--levels", help="comma-separated levels, such as L0,L1 (default: all)")
    parser.add_argument(
        "--tasks",
        type=positive,
        help="number of tasks, at least 1 (default: the whole split, 100 for train)",
    )
    add_seed(parser)
    parser.add_argument(
        "--temperature",
        type=temperature,
        help="sampling temperature (default: as the adapter or the YAML's train: block says)",
    )
    parser.add_argument(
        "--max-turn-tokens", type=positive, metavar="N", help="maximum tokens of one answer"
    )
    parser.add_argument(
        "--max-context-tokens", type=positive, metavar="N", help="maximum tokens of a dialogue"
    )
    parser.add_argument(
        "--workers", type=positive, default=64, help="maximum number of parallel episodes"
    )
    parser.add_argument("--json", action="store_true", help="print exact numbers as JSON")
    parser.add_argument(
        "--episodes",
        metavar="FILE",
        help="also append every episode to this JSONL file, with the name of its policy",
    )


def run(arguments: argparse.Namespace) -> None:
    """Evaluate each policy and print a table, also of those that ended before an error."""
    from envgym.evaluation.evaluate import check_file, evaluate
    from envgym.evaluation.policy_worlds import PolicyWorlds
    from envgym.evaluation.report import print_outcomes
    from envgym.policies import SamplingOverrides
    from envgym.policies.registry import open_policy

    levels = _levels(arguments.levels)
    _check_names(arguments.policy)
    worlds = PolicyWorlds(arguments.env, arguments.settings)
    print_credentials(worlds.spec)
    if arguments.episodes:
        check_file(arguments.episodes)
    sampling = SamplingOverrides(
        arguments.temperature, arguments.max_turn_tokens, arguments.max_context_tokens
    )
    outcomes = []
    try:
        for name in arguments.policy:
            world = worlds.world_of(name)
            outcome = evaluate(
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
            outcomes.append(outcome)
    finally:
        if outcomes:
            print_outcomes(outcomes, as_json=arguments.json)
        worlds.close()


def _levels(text: str | None) -> tuple[str, ...]:
    """Return the levels of a comma-separated list. Raise UsageError if one has no name."""
    if text is None:
        return ()
    levels = tuple(level.strip() for level in text.split(","))
    if not all(levels):
        raise UsageError(f"--levels '{text}' holds an empty name. Write for example --levels L0,L1")
    return levels


def _check_names(policies: Sequence[str]) -> None:
    """Raise UsageError if a policy is given twice: its records would be indistinguishable."""
    if doubled := [name for name in policies if policies.count(name) > 1]:
        raise UsageError(f"--policy {doubled[0]} is given twice. Name each policy once")
