"""Command `envgym sandbox`: list and remove containers, probe backends, measure a sandbox."""

from __future__ import annotations

import argparse
import itertools
import json
import time
from typing import Any

from envgym.errors import PrerequisiteError

EXAMPLES = """examples:
  envgym sandbox doctor        test which engine, backends and isolation levels work here
  envgym sandbox ls            envgym's containers and their owners
  envgym sandbox gc            remove containers whose owner has ended
  envgym sandbox bench crm     measure the speed and cost of an environment's sandbox
"""


def add_sandbox(commands: Any) -> None:
    """Add `envgym sandbox` and its subcommands."""
    parser = commands.add_parser(
        "sandbox",
        help="List, remove, test and measure sandboxes: ls, gc, doctor, bench.",
        description="List and remove envgym's containers, test backends, and measure a sandbox.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for add in (_add_ls, _add_gc, _add_doctor, _add_bench):
        add(commands)


def _add(
    commands: Any, name: str, run: Any, *, summary: str, example: str
) -> argparse.ArgumentParser:
    from envgym.commands import add_command

    parser = add_command(commands, name, run, summary=summary, example=example, env=False)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser


def _add_engine(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--backend",
        choices=["docker", "podman"],
        default="docker",
        help="container engine: docker (default; the first engine that responds) or podman",
    )


def _add_ls(commands: Any) -> None:
    summary = "List envgym's containers with their owners."
    _add_engine(_add(commands, "ls", _ls, summary=summary, example="envgym sandbox ls --json"))


def _ls(arguments: argparse.Namespace) -> None:
    from envgym.sandbox.containers.engine import connect
    from envgym.sandbox.containers.owners import owned

    api = connect(arguments.backend)
    rows = [_row(container) for container in owned(api)]
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return
    print(f"{'ID':12} {'IMAGE':26} {'STATE':9} {'AGE':7} {'OWNER':16} RUN")
    for row in rows:
        owner = f"{row['owner_pid']} {row['owner']}"
        print(
            f"{row['id']:12} {row['image']:26} {row['state']:9} {_age(row['age_seconds']):7} "
            f"{owner:16} {row['run'][:12]}"
        )


def _row(container: dict[str, Any]) -> dict[str, Any]:
    """Return the listed fields of a container.

    `owner` is alive, gone, or unknown (on another machine or in another PID namespace).
    """
    from envgym.sandbox.containers.owners import OWNER_LABEL, RUN_LABEL

    labels = container["Labels"]
    return {
        "id": container["Id"][:12],
        "image": container["Image"],
        "state": container["State"],
        "age_seconds": max(0, round(time.time() - container["Created"])),
        "owner_pid": pid_of(labels[OWNER_LABEL]),
        "owner": container["Fate"],
        "run": labels.get(RUN_LABEL, ""),
    }


def pid_of(owner: str) -> int | None:
    """Return the process id in an owner label."""
    pid = owner.split(":")[2:3]
    return int(pid[0]) if pid and pid[0].isdigit() else None


def _age(seconds: int) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def _add_gc(commands: Any) -> None:
    summary = "Remove envgym's containers whose owner has ended; never those of a running one."
    _add_engine(_add(commands, "gc", _gc, summary=summary, example="envgym sandbox gc"))


def _gc(arguments: argparse.Namespace) -> int:
    from envgym.sandbox.containers.engine import connect
    from envgym.sandbox.containers.owners import owned, reap_orphans

    api = connect(arguments.backend)
    before = {container["Id"]: _row(container) for container in owned(api)}
    removed = [before[each] for each in reap_orphans(api) if each in before]
    after = [_row(container) for container in owned(api)]
    stuck = [row for row in after if row["owner"] == "gone"]
    if arguments.json:
        print(json.dumps({"removed": removed, "kept": after}, indent=2))
        return 1 if stuck else 0
    for row in removed:
        print(
            f"removed {row['id']}: {row['image']}, {row['state']}, owner {row['owner_pid']} is gone"
        )
    for row in stuck:
        print(f"cannot remove {row['id']}: the engine refuses, try: docker rm -f {row['id']}")
    print(f"{len(removed)} removed, {len(after)} kept")
    return 1 if stuck else 0


def _add_doctor(commands: Any) -> None:
    parser = _add(
        commands,
        "doctor",
        _doctor,
        summary="Test which backends and isolation levels work here, and why others do not.",
        example="envgym sandbox doctor --backend docker --image acme/crm:1.4",
    )
    parser.add_argument(
        "--backend",
        action="append",
        metavar="NAME",
        help="docker, podman, bubblewrap, local or none; repeatable (default: all)",
    )
    parser.add_argument("--image", help="container image to test with (default: python:3.12-slim)")


def _doctor(arguments: argparse.Namespace) -> int:
    from envgym.commands.sandbox_doctor import BACKENDS, levels
    from envgym.errors import UsageError, did_you_mean

    chosen = arguments.backend or BACKENDS
    if unknown := [name for name in chosen if name not in BACKENDS]:
        hint = did_you_mean(unknown[0], BACKENDS)
        raise UsageError(f"--backend {unknown[0]}{hint} Available: {', '.join(BACKENDS)}")
    engines = {name: _engine(name) for name in chosen if name in ("docker", "podman")}
    found = {name: levels(name, image=arguments.image) for name in chosen}
    if arguments.json:
        import dataclasses

        backends = {
            name: [dataclasses.asdict(level) for level in each] for name, each in found.items()
        }
        print(json.dumps({"engines": engines, "backends": backends}, indent=2))
    else:
        _print_doctor(engines, found)
    return 0 if any(level.possible for each in found.values() for level in each) else 1


def _engine(backend: Any) -> dict[str, Any]:
    from envgym.commands.sandbox_doctor import engine_facts

    try:
        return engine_facts(backend)
    except PrerequisiteError as error:
        return {"name": None, "why": str(error)}


def _print_doctor(engines: dict[str, dict[str, Any]], found: dict[str, Any]) -> None:
    for backend, engine in engines.items():
        if engine["name"] is None:
            print(f"engine for {backend}: none. {engine['why']}")
        else:
            print(
                f"engine for {backend}: {engine['name']} {engine['version']} at "
                f"{engine['address']} (found: {engine['found']}); "
                f"runtimes {', '.join(engine['runtimes'])}; "
                f"networks {', '.join(engine['networks'])}"
            )
    print(f"\n{'BACKEND':11} {'HERE':4} LEVEL: WHY")
    for backend, each in found.items():
        for (possible, reason), same in itertools.groupby(
            each, key=lambda level: (level.possible, " ".join(level.reason.split()))
        ):
            print(
                f"{backend:11} {'yes' if possible else 'no':4} "
                f"{', '.join(level.name for level in same)}: {reason}"
            )


def _add_bench(commands: Any) -> None:
    from envgym.commands import add_command

    parser = add_command(
        commands,
        "bench",
        _bench,
        summary="Measure the sandbox of an environment by replaying its oracle's calls.",
        example="envgym sandbox bench crm --backend docker --sessions 8 --episodes 200",
    )
    parser.add_argument(
        "--backend", metavar="NAME", help="override the environment's sandbox.backend"
    )
    parser.add_argument(
        "--isolation", metavar="LEVEL", help="override the environment's sandbox.isolation"
    )
    parser.add_argument(
        "--sessions", type=_positive, default=8, help="concurrent episodes (default: 8)"
    )
    parser.add_argument(
        "--episodes", type=_positive, default=200, help="total number of episodes (default: 200)"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not an integer of at least 1")
    return int(text)


def _bench(arguments: argparse.Namespace) -> int:
    from envgym.commands.sandbox_benchmark import bench, lines
    from envgym.spec.environment import load_spec

    chosen = {"backend": arguments.backend, "isolation": arguments.isolation}
    settings = [
        *arguments.settings,
        *(f"sandbox.{name}={value}" for name, value in chosen.items() if value),
    ]
    report = bench(
        load_spec(arguments.env, settings),
        sessions=arguments.sessions,
        episodes=arguments.episodes,
        progress=not arguments.json,
    )
    print(json.dumps(report.to_dict(), indent=2) if arguments.json else "\n".join(lines(report)))
    return 1 if report.played.void else 0
