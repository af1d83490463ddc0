"""Test which backends and isolation levels work here, and why others do not."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from envgym.commands.arguments import add_json
from envgym.errors import UsageError, did_you_mean
from envgym.text import to_json
from envgym.text.terminal import print_line

if TYPE_CHECKING:
    from envgym.commands.sandbox.probe import Level

EXAMPLE = "envgym sandbox doctor --backend docker --image acme/crm:1.4"


def add(parser: argparse.ArgumentParser) -> None:
    """Add the backends and the image."""
    parser.add_argument(
        "--backend",
        action="append",
        metavar="NAME",
        help="docker, podman, bubblewrap, local, none or file.py:name; repeatable (default: all)",
    )
    parser.add_argument("--image", help="container image to test with (default: python:3.12-slim)")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print a table and return 1 if no level works."""
    from envgym.commands.sandbox.probe import facts, levels

    chosen = _chosen(arguments.backend or [])
    backends = {name: facts(name) for name in chosen}
    found = {name: levels(name, image=arguments.image) for name in chosen}
    if arguments.json:
        rows = {name: list(map(dataclasses.asdict, each)) for name, each in found.items()}
        print(to_json({"facts": backends, "backends": rows}, indent=2))
    else:
        _print(backends, found)
    return 0 if any(level.possible for each in found.values() for level in each) else 1


def _chosen(names: Sequence[str]) -> list[str]:
    """Return the backends to test, with absolute paths. Raise UsageError for an unknown name."""
    from envgym.sandbox.options import backend_names

    known = backend_names()
    for name in names:
        if name not in known and ":" not in name:
            raise UsageError(
                f"--backend {name}{did_you_mean(name, known) or '.'} "
                f"Available: {', '.join(known)}, or file.py:name for your own"
            )
    return [_absolute(name) for name in names] or known


def _absolute(name: str) -> str:
    return str(Path(name).resolve()) if ".py:" in name else name


def _print(backends: Mapping[str, Mapping[str, Any]], found: Mapping[str, Sequence[Level]]) -> None:
    for backend, facts in backends.items():
        if facts.get("name", backend) is None:
            print_line(f"{backend}: not available. {facts['why']}")
        else:
            print_line(
                f"{backend}: {'; '.join(f'{key} {_text(value)}' for key, value in facts.items())}"
            )
    print_line(f"\n{'BACKEND':11} {'HERE':4} LEVEL: WHY")
    for backend, each in found.items():
        for (possible, reason), same in itertools.groupby(each, key=_outcome):
            print_line(
                f"{backend:11} {'yes' if possible else 'no':4} "
                f"{', '.join(level.name for level in same)}: {reason}"
            )


def _outcome(level: Level) -> tuple[bool, str]:
    return level.possible, " ".join(level.reason.split())


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
