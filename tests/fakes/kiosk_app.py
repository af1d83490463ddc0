"""The tiny kiosk and its sandboxes, for the tests of the sandbox layer."""

from __future__ import annotations

import functools
import shutil
import time
from pathlib import Path

import pytest

from envgym.errors import PrerequisiteError, WorldFailure
from envgym.sandbox import App
from envgym.sandbox.options import SandboxOptions

KIOSK = App(
    Path(__file__).parent / "apps", ("kiosk/tools.py",), "kiosk/schema.sql", "kiosk/seed.py:fill"
)
NOW = "2026-03-02T09:00:00"


def _kind(backend: str, level: str):
    marks = [pytest.mark.docker] if backend == "docker" else []
    return pytest.param((backend, level), id=f"{backend}-{level}", marks=marks)


DOCKER = [_kind("docker", level) for level in ("state", "fork", "namespaces", "container")]
BUBBLEWRAP = [_kind("bubblewrap", level) for level in ("state", "fork", "container")]
LOCAL = [_kind("local", level) for level in ("state", "fork")]
NONE = [_kind("none", "state")]
FORK = [LOCAL[1], BUBBLEWRAP[1], *DOCKER[1:]]
"""Backends and isolation levels whose sessions have their own processes."""
EVERY = NONE + LOCAL + BUBBLEWRAP + DOCKER


def in_campaign(kinds: list) -> list:
    """Return the kinds, those with an engine marked to run in `make campaign` only."""
    return [
        pytest.param(*kind.values, id=kind.id, marks=[*kind.marks, pytest.mark.campaign])
        if kind in DOCKER
        else kind
        for kind in kinds
    ]


def options(kind: tuple, **more) -> SandboxOptions:
    backend, isolation = kind
    if backend == "docker":
        need_docker()
    if backend == "bubblewrap" and shutil.which("bwrap") is None:
        pytest.skip("NOT TESTED, no bubblewrap: install the package `bubblewrap`")
    return SandboxOptions(backend=backend, isolation=isolation, **more)


def need_docker() -> None:
    if reason := _why_no_docker():
        pytest.skip(f"NOT TESTED, no Docker: {reason}")


@functools.cache
def _why_no_docker() -> str:
    from envgym.sandbox.containers.engine import connect
    from envgym.sandbox.containers.images import ensure_image

    try:
        ensure_image(connect(), SandboxOptions().image)
    except PrerequisiteError as error:
        return str(error)
    return ""


def call(session, tool: str, timeout_seconds: float = 20, **arguments):
    return session.call(tool, arguments, now=NOW, timeout_seconds=timeout_seconds)


def failure_of(work) -> WorldFailure:
    with pytest.raises(WorldFailure) as caught:
        work()
    return caught.value


def wait_until(condition, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not so after {seconds} s"
        time.sleep(0.05)
