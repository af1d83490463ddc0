"""The tiny kiosk and the sandboxes it runs in, for the tests of the sandbox layer."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

from envgym.errors import PrerequisiteError
from envgym.sandbox import App
from envgym.sandbox.options import SandboxOptions

KIOSK = App(Path(__file__).parent / "apps", ("kiosk/tools.py",), "kiosk/schema.sql", "kiosk/seed.py:fill")
NOW = "2026-03-02T09:00:00"

DOCKER = [pytest.param(("docker", "state"), id="docker-state", marks=pytest.mark.docker),
          pytest.param(("docker", "fork"), id="docker-fork", marks=pytest.mark.docker)]  # fmt: skip
LOCAL = [pytest.param(("local", "state"), id="local-state"), pytest.param(("local", "fork"), id="local-fork")]
NONE = [pytest.param(("none", "state"), id="none")]
FORK = [LOCAL[1], DOCKER[1]]
EVERY = NONE + LOCAL + DOCKER


def options(kind: tuple, **more) -> SandboxOptions:
    backend, isolation = kind
    if backend == "docker":
        need_docker()
    return SandboxOptions(backend=backend, isolation=isolation, **more)


def need_docker() -> None:
    if reason := _why_no_docker():
        pytest.skip(f"NOT TESTED, no Docker: {reason}")


@functools.cache
def _why_no_docker() -> str:
    from envgym.sandbox.engine import connect
    from envgym.sandbox.images import ensure_image

    try:
        ensure_image(connect(), SandboxOptions().image)
    except PrerequisiteError as error:
        return str(error)
    return ""


def call(session, tool: str, timeout_seconds: float = 20, **arguments):
    return session.call(tool, arguments, now=NOW, timeout_seconds=timeout_seconds)
