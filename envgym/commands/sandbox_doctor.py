"""Probe the backends and isolation levels of this machine by running a tool in each.

A failed level is reported with the sandbox's own error message and its remedy; version numbers are
not interpreted. To test a company's image, set `image`.
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
    """Result of a probe of one isolation level."""

    name: str
    possible: bool
    reason: str
    """Label of the sandbox if it is possible, otherwise the error message with its remedy."""


def engine_facts(backend: EngineName) -> dict[str, Any]:
    """Return name, version, address, origin, runtimes and networks of an engine.

    Raises:
        PrerequisiteError: If no engine responds.
    """
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
    """Probe each isolation level of a backend.

    Args:
        image: Container image to use. `None` means the default image.
    """
    return [_try(backend, level, image) for level in LEVELS]


def _try(backend: str, level: str, image: str | None) -> Level:
    if backend not in get_args(Backend):
        return Level(
            level,
            False,
            f"this version of envgym has no backend '{backend}'. "
            "Use sandbox.backend=docker or local",
        )
    if backend == "none" and level != "state":
        return Level(
            level,
            False,
            "without a box there is only one process. Use sandbox.backend=local or docker",
        )
    if level not in get_args(Isolation):
        known = " or ".join(get_args(Isolation))
        return Level(
            level,
            False,
            f"this version of envgym has no such level. Use sandbox.isolation={known}",
        )
    more = {"image": image} if image else {}
    try:
        options = SandboxOptions.model_validate({"backend": backend, "isolation": level, **more})
        return Level(level, True, _run_probe(options))
    except EnvgymError as error:
        return Level(level, False, str(error))


def _run_probe(options: SandboxOptions) -> str:
    """Open a box, run a tool in it and return the sandbox's label."""
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
