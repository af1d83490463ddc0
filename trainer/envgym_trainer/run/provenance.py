"""Collect the provenance of a run for `run.json`: command, seeds, commit and versions.

Imports neither torch nor peft.
"""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("envgym", "torch", "transformers", "peft", "tokenizers", "gymnasium", "numpy")


def run_facts(
    *, seeds: Mapping[str, int], device: str, argv: Sequence[str] | None = None, **more: Any
) -> dict[str, Any]:
    """Return the content of `run.json`.

    Args:
        seeds: Name -> seed, such as {"train": 0}.
        device: Device of the computation, such as "cpu (2 threads)".
        argv: Command line; `sys.argv` if `None`.
        more: Additional entries that can be written as JSON.
    """
    return {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": list(sys.argv if argv is None else argv),
        "device": device,
        "seeds": dict(seeds),
        "git": git_state(Path(__file__).parent),
        "versions": versions(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        **more,
    }


def versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Return package -> installed version. Packages that are not installed are skipped."""
    found = {}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def git_state(folder: Path) -> dict[str, Any] | None:
    """Return the commit of the checkout around `folder`, and whether tracked files are changed.

    The result is `None` outside a checkout or if git is not installed.
    """
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    return {
        "commit": commit,
        "changed": bool(_git(folder, "status", "--porcelain", "--untracked-files=no")),
    }


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            # A status that is stopped half-way must not leave a lock in the user's checkout.
            ["git", "--no-optional-locks", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
