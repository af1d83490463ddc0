"""Command line interface. Each command imports its modules lazily, so that `--help` is fast.

Other packages add commands through the entry-point group `envgym.commands` (the trainer adds
`train`). Exit codes: 0 success, 1 failed, 2 usage error (in a YAML, an override or an argument), 3
missing prerequisite, 130 interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from envgym.errors import EnvgymError, PrerequisiteError, TooManyFailures

if TYPE_CHECKING:
    from envgym.policies import Policy
    from envgym.world import World

EXAMPLES = """examples:
  envgym list                                   list the bundled environments
  envgym play guess                             play an episode yourself
  envgym eval crm --policy oracle               evaluate an oracle on the test tasks
  envgym check envs/crm.yaml                    test the environment and its grader
  envgym train envs/crm.yaml                    train a small model on it (needs envgym[train])
  envgym train envs/crm.yaml train.steps=60     override any setting of the YAML
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    parser = build_parser()
    arguments, rest = parser.parse_known_args(argv)
    # Settings may appear anywhere on the line; argparse accepts them only in one place.
    if not hasattr(arguments, "settings") or any(
        word.startswith("-") or "=" not in word for word in rest
    ):
        if rest:
            parser.error(f"unrecognized arguments: {' '.join(rest)}")
    else:
        arguments.settings += rest
    try:
        return arguments.run(arguments) or 0
    except EnvgymError as error:
        print(f"envgym: {error}", file=sys.stderr)
        return (
            3
            if isinstance(error, PrerequisiteError)
            else 1
            if isinstance(error, TooManyFailures)
            else 2
        )
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `envgym ... | head`
        sys.stderr.close()
        return 0


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="envgym",
        description=(
            "Turn a YAML file with tools and tasks into an environment "
            "and train a small open model on it."
        ),
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for add in (
        _add_list,
        _add_play,
        _add_eval,
        _add_check,
        _add_reward,
        _add_sandbox,
        _add_schema,
    ):
        add(commands)
    _add_plugins(commands)
    return parser


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from importlib.metadata import version

        print(f"envgym {version('envgym')}")
        parser.exit()


def add_command(
    commands: Any, name: str, run: Any, *, summary: str, example: str, env: bool = True
) -> argparse.ArgumentParser:
    """Add a sub-command with an example in its help.

    Args:
        commands: Sub-parsers of the main parser.
        name: Name of the command.
        run: Function that runs the command with the parsed arguments.
        summary: One sentence for the help.
        example: Command line for the help.
        env: Whether to add the environment and its `key=value` settings as arguments.
    """
    parser = commands.add_parser(
        name,
        help=summary,
        description=summary,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    if env:
        parser.add_argument(
            "env", help="a YAML file, or the name or id of an environment (see `envgym list`)"
        )
        parser.add_argument(
            "settings",
            nargs="*",
            metavar="key=value",
            help="settings that override the YAML, such as sandbox.backend=local",
        )
    return parser


def _add_plugins(commands: Any) -> None:
    from importlib.metadata import entry_points

    for point in sorted(entry_points(group="envgym.commands"), key=lambda point: point.name):
        point.load()(commands)


def _add_list(commands: Any) -> None:
    add_command(
        commands,
        "list",
        _list,
        summary="List the bundled environments.",
        example="envgym list",
        env=False,
    )


def _list(arguments: argparse.Namespace) -> None:
    from envgym.spec.catalog import bundled_envs
    from envgym.spec.environment import load_spec

    for name, path in bundled_envs().items():
        spec = load_spec(path)
        print(f"{name:12} {spec.id:22} {spec.description.strip()}")


def _add_play(commands: Any) -> None:
    parser = add_command(
        commands,
        "play",
        _play,
        summary="Play an episode yourself.",
        example="envgym play crm --split test",
    )
    parser.add_argument("--task", help="task id, such as test/set_phone/3 (default: random)")
    parser.add_argument("--split", default="train", choices=["train", "val", "test"])
    parser.add_argument(
        "--policy",
        default="human",
        help="policy: human (default), oracle, noop, random, ... (see `envgym eval --help`)",
    )
    parser.add_argument("--seed", type=int, default=0)


def _play(arguments: argparse.Namespace) -> None:
    from envgym.evaluation.report import print_episode
    from envgym.playing import play
    from envgym.registration import make_world
    from envgym.spec.environment import load_spec

    world = make_world(load_spec(arguments.env, arguments.settings))
    try:
        policy = open_policy(arguments.policy, world)
        env = world.env(split=arguments.split)
        episode = play(env, policy, seed=arguments.seed, task=arguments.task)
        print_episode(episode, conversation=arguments.policy != "human")
    finally:
        world.close()


def _add_eval(commands: Any) -> None:
    parser = add_command(
        commands,
        "eval",
        _eval,
        summary="Measure the success rate of a policy on held-out tasks.",
        example="envgym eval envs/crm.yaml --policy adapter:runs/crm/adapter --levels L0,L1",
    )
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
    parser.add_argument("--split", default="test", choices=["train", "val", "test"])
    parser.add_argument(
        "--levels", default="", help="comma-separated levels, such as L0,L1 (default: all)"
    )
    parser.add_argument(
        "--tasks", type=int, help="number of tasks (default: the whole split, 100 for train)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--workers", type=int, default=64, help="maximum number of parallel episodes"
    )
    parser.add_argument("--json", action="store_true", help="print exact numbers as JSON")
    parser.add_argument(
        "--episodes", metavar="FILE", help="also write every episode to this JSONL file"
    )


def _eval(arguments: argparse.Namespace) -> None:
    from envgym.evaluation.evaluate import evaluate
    from envgym.evaluation.report import print_outcomes
    from envgym.registration import make_world
    from envgym.spec.environment import load_spec

    world = make_world(load_spec(arguments.env, arguments.settings))
    try:
        levels = tuple(filter(None, arguments.levels.split(",")))
        outcomes = [
            evaluate(
                world,
                open_policy(name, world),
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


def open_policy(text: str, world: World) -> Policy:
    """Return the policy that `oracle`, `random`, `openai:URL`, `adapter:PATH`, ... refers to.

    Raises:
        UsageError: If there is no such policy.
    """
    from envgym.policies.registry import open_policy

    return open_policy(text, world)


def _add_check(commands: Any) -> None:
    parser = add_command(
        commands,
        "check",
        _check,
        summary="Test an environment and its grader: oracle, floors, determinism, leaks.",
        example="envgym check envs/crm.yaml",
    )
    parser.add_argument(
        "--tasks", type=int, help="tasks per split (default: all of val and test, 100 of train)"
    )
    parser.add_argument("--json", action="store_true", help="print the results as JSON")


def _check(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from envgym.evaluation.checks import check, print_checks
    from envgym.spec.environment import load_spec

    spec = load_spec(arguments.env, arguments.settings)
    with Console(stderr=True).status("checking") as status:  # visible on a terminal only
        results = check(
            spec,
            tasks_per_split=arguments.tasks,
            progress=lambda check, played: status.update(f"{check}: {played} episodes"),
        )
    print_checks(results, as_json=arguments.json)
    return 0 if all(result.passed for result in results) else 1


def _add_reward(commands: Any) -> None:
    from envgym.commands.reward import add_reward

    add_reward(commands)


def _add_sandbox(commands: Any) -> None:
    from envgym.commands.sandbox import add_sandbox

    add_sandbox(commands)


def _add_schema(commands: Any) -> None:
    add_command(
        commands,
        "schema",
        _schema,
        summary="Print the JSON schema of an environment's YAML.",
        example="envgym schema",
        env=False,
    )


def _schema(arguments: argparse.Namespace) -> None:
    import json

    from envgym.spec.environment import json_schema

    print(json.dumps(json_schema(), indent=2))
