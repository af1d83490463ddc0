"""Check boxes of each kind, and helpers that run a hidden test in them."""

from __future__ import annotations

import base64
import os
import subprocess
import sys

import pytest

from envgym.sandbox import App, Verification
from envgym.sandbox.archive import AGENT
from envgym.sandbox.backends import open_sandbox
from envgym.sandbox.backends.local import (
    ProcessTransport,
    check_hello,
    clean_environment,
    why_not_isolated,
)
from envgym.sandbox.box.checks import CheckRunner
from tests.fakes import APPS
from tests.fakes.kiosk_app import options

APP = App(APPS, ("folder/tools.py",), files="folder/world.py:lay_out")
TEST = "tests/test_hidden.py"
NUMBER = 123_457
CUBE = NUMBER**3
PROGRAM = f"""
import subprocess, sys
said = subprocess.run([sys.executable, "program.py", "{NUMBER}"], capture_output=True, text=True)
assert said.stdout == "{CUBE}\\n", said.stdout[-99:] + said.stderr[-300:]
"""
"""Hidden test of a program that prints the cube of its argument."""
BOXES = [
    "local",
    pytest.param("namespaces", marks=pytest.mark.campaign),
    pytest.param("bubblewrap", marks=pytest.mark.campaign),
    pytest.param("docker", marks=[pytest.mark.campaign, pytest.mark.docker]),
]


@pytest.fixture(scope="module", params=BOXES)
def checks(request):
    """Runner of hidden tests, for each kind of check box."""
    if request.param in ("local", "namespaces") and (problem := why_not_isolated()):
        pytest.skip(f"NOT TESTED: {problem}")
    backend = request.param.replace("namespaces", "local")
    sandbox = open_sandbox(APP, options((backend, "fork")))
    runner = sandbox.checks
    if request.param == "namespaces":
        runner = CheckRunner(
            start_without_root,
            check_hello(APP, options(("local", "fork"))),
            timeout_seconds=60,
            statistics=sandbox.statistics,
        )
    yield runner
    sandbox.close()


def start_without_root() -> ProcessTransport:
    """Start the agent of a local check box as an ordinary user, by this or the system's Python."""
    drop = ["setpriv", "--reuid", "54321", "--regid", "54321", "--clear-groups"]
    for python in (sys.executable, "/usr/bin/python3"):
        words = [*(drop if os.geteuid() == 0 else []), python]
        again = "subprocess.call([sys.executable, '-c', 'pass'])"
        trial = f"import subprocess, sys; sys.exit({again} or sys.version_info < (3, 11))"
        if subprocess.run([*words, "-c", trial], capture_output=True, check=False).returncode == 0:
            return ProcessTransport([*words, "-s", str(AGENT)], clean_environment())
    pytest.skip("NOT TESTED: no Python 3.11 that an ordinary user may run")


def tree(files: dict[str, str], links: dict[str, str] | None = None) -> dict:
    """Return final files and links as a session hands them over."""
    kinds = [("file", 0o644, files), ("link", 0o777, links or {})]
    entries = {
        name: [kind, mode, base64.b64encode(text.encode()).decode()]
        for kind, mode, texts in kinds
        for name, text in texts.items()
    }
    folders = {"/".join(name.split("/")[:n]) for name in entries for n in range(1, 9)}
    return {
        **{name: ["folder", 0o755, ""] for name in sorted(folders - {""} - entries.keys())},
        **entries,
    }


def run(
    checks: CheckRunner,
    files: dict[str, str],
    test: str,
    *,
    links: dict[str, str] | None = None,
    hidden: dict[str, str] | None = None,
    command: tuple[str, ...] = ("python", "-I", TEST),
    **more: object,
) -> Verification:
    seconds = {"timeout_seconds": 60.0, "inputs": {}} | more
    whole = {TEST: test, **(hidden or {})}
    return checks.run(tree(files, links), whole, command=command, **seconds)
