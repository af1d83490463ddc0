"""Finds out which backends and isolation levels are possible on this machine, by running a tool in each of them.

What does not run is told with the reason, and the way out, that the sandbox itself gives when it refuses: nothing is judged
from version numbers. Not covered: what a company's own image or its limits change (name the image with `image`).
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from envgym.errors import EnvgymError
from envgym.sandbox import App, Backend, Isolation
from envgym.sandbox.backends import open_sandbox
from envgym.sandbox.containers.addresses import EngineName
from envgym.sandbox.containers.engine import find_engine
from envgym.sandbox.options import SandboxOptions

BACKENDS = ("docker", "podman", "bubblewrap", "local", "none")
LEVELS = ("state", "fork", "namespaces", "container")
PROBE = 'def probe() -> str:\n    """Says that it ran."""\n    return "ran"\n'
PROBE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Level:
    """Whether one backend can give one isolation level."""

    name: str
    possible: bool
    reason: str
    """What is in force and what it does not isolate; or why it is not possible, with the way out."""


def engine_facts(backend: EngineName) -> dict[str, Any]:
    """Name, version, address, how it was found, runtimes and networks of an engine. Raises PrerequisiteError."""
    engine = find_engine(backend)
    try:
        return {
            "name": engine.name,
            "version": engine.version,
            "address": engine.address.url,
            "found": engine.address.found,
            "runtimes": sorted(engine.api.info().get("Runtimes") or {}),
            "networks": sorted(each["Name"] for each in engine.api.networks()),
        }
    finally:
        engine.api.close()


def levels(backend: str, *, image: str | None = None) -> list[Level]:
    """Each isolation level under a backend, tried for real.

    Args:
        image: container image to try it with; the default one if None.
    """
    return [_try(backend, level, image) for level in LEVELS]


def _try(backend: str, level: str, image: str | None) -> Level:
    if backend not in get_args(Backend):
        return Level(
            level,
            False,
            f"this version of envgym has no backend '{backend}'. Take sandbox.backend=docker or local",
        )
    if backend == "none" and level != "state":
        return Level(
            level,
            False,
            "without a box there is only one process. Take sandbox.backend=local or docker",
        )
    if level not in get_args(Isolation):
        known = " or ".join(get_args(Isolation))
        return Level(
            level,
            False,
            f"this version of envgym has no such level. Take sandbox.isolation={known}",
        )
    more = {"image": image} if image else {}
    try:
        return Level(
            level, True, _run_probe(SandboxOptions(backend=backend, isolation=level, **more))
        )  # type: ignore[arg-type]
    except EnvgymError as error:
        return Level(level, False, str(error))


def _run_probe(options: SandboxOptions) -> str:
    """Opens a box, runs a tool in it, and returns the sandbox's label."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "probe.py").write_text(PROBE)
        sandbox = open_sandbox(App(Path(folder), ("probe.py",)), options)
        try:
            session = sandbox.open(seed=0, timeout_seconds=PROBE_SECONDS)
            session.call("probe", {}, now="2026-01-05T09:00:00", timeout_seconds=PROBE_SECONDS)
            session.close()
            return sandbox.label
        finally:
            sandbox.close()
