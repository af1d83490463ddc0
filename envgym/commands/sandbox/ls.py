"""List envgym's containers with their owners."""

from __future__ import annotations

import argparse

from envgym.commands.arguments import add_json
from envgym.commands.sandbox.containers import ContainerRow, add_engine, container_rows
from envgym.text import to_json
from envgym.text.terminal import print_line

EXAMPLE = "envgym sandbox ls --json"


def add(parser: argparse.ArgumentParser) -> None:
    """Add the container engine."""
    add_engine(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> None:
    """Print one line for each container."""
    from envgym.sandbox.containers.engine import connect

    rows = container_rows(connect(arguments.backend))
    if arguments.json:
        print(to_json(rows, indent=2))
        return
    print_line(f"{'ID':12} {'IMAGE':26} {'STATE':9} {'AGE':7} {'OWNER':16} RUN")
    for row in rows:
        print_line(_line(row))


def _line(row: ContainerRow) -> str:
    owner = f"{row['owner_pid']} {row['owner']}"
    return (
        f"{row['id']:12} {row['image']:26} {row['state']:9} {_age(row['age_seconds']):7} "
        f"{owner:16} {row['run'][:12]}"
    )


def _age(seconds: int) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
