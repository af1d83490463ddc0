"""Rows of `envgym sandbox ls` and `gc`: envgym's containers with their owners."""

from __future__ import annotations

import argparse
import time
from typing import Any, TypedDict


class ContainerRow(TypedDict):
    """Listed fields of a container."""

    id: str
    """First twelve characters of its id."""
    image: str
    state: str
    age_seconds: int
    owner_pid: int | None
    owner: str
    """`alive`, `gone`, or `unknown` (on another machine or in another PID namespace)."""
    run: str
    """Id of the process that created it, shared by all its containers."""


def add_engine(parser: argparse.ArgumentParser) -> None:
    """Add the choice of the container engine."""
    parser.add_argument(
        "--backend",
        choices=["docker", "podman"],
        default="docker",
        help="container engine: docker (default; the first engine that responds) or podman",
    )


def container_rows(api: Any) -> list[ContainerRow]:
    """Return a row for each container of envgym; `api` is a `docker.APIClient`."""
    from envgym.sandbox.containers.owners import owned

    return [_row(container) for container in owned(api)]


def _row(container: dict[str, Any]) -> ContainerRow:
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
