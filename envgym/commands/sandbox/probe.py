"""Probe the backends and isolation levels of this machine by running a tool in each.

A failed level is reported with the sandbox's own error message and its remedy; version numbers are
not interpreted. To test a company's image, set `image`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from envgym.errors import EnvgymError, PrerequisiteError
from envgym.sandbox import App, Isolation
from envgym.sandbox.backends import find_backend, open_sandbox
from envgym.sandbox.options import SandboxOptions

PROBE = 'def probe() -> str:\n    """Says that it ran."""\n    return "ran"\n'
PROBE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Level:
    """Result of a probe of one isolation level."""

    name: str
    possible: bool
    reason: str
    """Label of the sandbox if it is possible, otherwise the error message with its remedy."""


def facts(backend: str) -> Mapping[str, Any]:
    """Return a backend's facts about this machine.

    If something is missing, `name` is None and `why` is the error message with its remedy.
    """
    try:
        return find_backend(backend).probe() or {}
    except PrerequisiteError as error:
        return {"name": None, "why": str(error)}


def levels(backend: str, *, image: str | None = None) -> list[Level]:
    """Probe each isolation level of a backend.

    Args:
        backend: Name of the backend.
        image: Container image to use. `None` means the default image.
    """
    return [_try(backend, level, image) for level in get_args(Isolation)]


def _try(backend: str, level: str, image: str | None) -> Level:
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
