"""`envgym sandbox ls|gc|doctor|bench`: envgym's containers, the removal of those left over, what can run here and how fast."""

from __future__ import annotations

import argparse
import itertools
import json
import time
from typing import Any

from envgym.errors import PrerequisiteError

EXAMPLES = """examples:
  envgym sandbox doctor        which engine, backends and isolation levels can be had here, and why not the others
  envgym sandbox ls            envgym's containers and their owners
  envgym sandbox gc            remove the containers whose owner is gone
  envgym sandbox bench crm     how fast the sandbox of an environment is, and what it costs
"""


def add_sandbox(commands: Any) -> None:
    """Adds `envgym sandbox` and its own sub-commands."""
    parser = commands.add_parser(
        "sandbox",
        help="Look after containers and measure them: ls, gc, doctor, bench.",
        description="Look after the containers that tools run in, find out what can run here, and how fast.",
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
        help="whose containers: of the engine that answers first (docker, default), or of podman",
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
            f"{row['id']:12} {row['image']:26} {row['state']:9} {_age(row['age_seconds']):7} {owner:16} {row['run'][:12]}"
        )


def _row(container: dict[str, Any]) -> dict[str, Any]:
    """A container as people are shown it; `owner` is alive, gone or unknown (of another machine or process namespace)."""
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
    """The process id in an owner label."""
    pid = owner.split(":")[2:3]
    return int(pid[0]) if pid and pid[0].isdigit() else None


def _age(seconds: int) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def _add_gc(commands: Any) -> None:
    summary = "Remove envgym's containers whose owner is gone; never those of a living owner."
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
        summary="Try which backends and isolation levels can be had here, and why not the others.",
        example="envgym sandbox doctor --backend docker --image acme/crm:1.4",
    )
    parser.add_argument(
        "--backend",
        action="append",
        metavar="NAME",
        help="docker, podman, bubblewrap, local or none; repeat for several, all by default",
    )
    parser.add_argument(
        "--image", help="container image to try it with (default: python:3.12-slim)"
    )


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
                f"engine for {backend}: {engine['name']} {engine['version']} at {engine['address']} (found: {engine['found']}); "
                f"runtimes {', '.join(engine['runtimes'])}; networks {', '.join(engine['networks'])}"
            )
    print(f"\n{'BACKEND':11} {'HERE':4} LEVEL: WHY")
    for backend, each in found.items():
        for (possible, reason), same in itertools.groupby(
            each, key=lambda level: (level.possible, " ".join(level.reason.split()))
        ):
            print(
                f"{backend:11} {'yes' if possible else 'no':4} {', '.join(level.name for level in same)}: {reason}"
            )


def _add_bench(commands: Any) -> None:
    from envgym.commands import add_command

    parser = add_command(
        commands,
        "bench",
        _bench,
        summary="Measure the sandbox of an environment, with the calls of its oracle as the work.",
        example="envgym sandbox bench crm --backend docker --isolation fork --sessions 8 --episodes 200",
    )
    parser.add_argument(
        "--backend", metavar="NAME", help="in place of the environment's own sandbox.backend"
    )
    parser.add_argument(
        "--isolation", metavar="LEVEL", help="in place of the environment's own sandbox.isolation"
    )
    parser.add_argument(
        "--sessions", type=_positive, default=8, help="episodes at once (default: 8)"
    )
    parser.add_argument(
        "--episodes", type=_positive, default=200, help="episodes in all (default: 200)"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number of at least 1")
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
