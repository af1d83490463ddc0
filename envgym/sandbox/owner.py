"""Who owns a container, and the removal of containers whose owner is gone.

A container normally ends with its owner by itself: its stdin closes. What stays are those whose owner was killed between
`create` and `start`. An owner is named by machine boot, process namespace, process id and start time, so neither a reused
process id nor another container on this machine is taken for it.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

RUN_LABEL, OWNER_LABEL = "envgym.run", "envgym.owner"


@functools.cache
def _run_of(_pid: int) -> str:
    return uuid.uuid4().hex


def labels() -> dict[str, str]:
    """The labels of a container that this process owns."""
    return {RUN_LABEL: _run_of(os.getpid()), OWNER_LABEL: owner()}


def owner() -> str:
    """This process as `boot:namespace:pid:start`."""
    return f"{_boot()}:{_namespace()}:{os.getpid()}:{_started(os.getpid())}"


def is_gone(label: str, *, engine_is_local: bool) -> bool:
    """Whether the process of an owner label has ended for certain; False where that cannot be known from here.

    Args:
        engine_is_local: the engine serves this machine only, so an owner of another boot ended with that boot.
    """
    try:
        boot, namespace, pid, started = label.split(":")
    except ValueError:
        return False
    if boot != _boot():
        return engine_is_local
    return namespace == _namespace() and _started(int(pid)) != started


def reap_orphans(api: Any) -> list[str]:
    """Removes envgym's containers whose owner is gone.

    Args:
        api: a `docker.APIClient`.
    Returns: ids of the containers removed.
    """
    import docker.errors

    local, removed = str(api.base_url).startswith("http+docker://"), []
    for container in api.containers(all=True, filters={"label": OWNER_LABEL}):
        if is_gone(container["Labels"][OWNER_LABEL], engine_is_local=local):
            try:
                api.remove_container(container["Id"], force=True, v=True)
            except docker.errors.APIError:
                continue  # going by itself, or taken by another reaper
            removed.append(container["Id"])
    return removed


@functools.cache
def _boot() -> str:
    if sys.platform == "darwin":
        return _said_by("sysctl", "-n", "kern.bootsessionuuid")
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _namespace() -> str:
    return str(os.stat("/proc/self/ns/pid").st_ino) if sys.platform == "linux" else "0"


def _started(pid: int) -> str:
    """When a process started, in an opaque unit; empty where there is none."""
    if sys.platform != "linux":
        return _said_by("ps", "-o", "lstart=", "-p", str(pid)).replace(":", ".").replace(" ", "_")
    try:
        # The second field is the program's name in brackets and may hold anything; field 22 is the start time.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def _said_by(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
