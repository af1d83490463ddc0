"""Ownership labels of containers, and removal of orphaned containers.

A container normally ends with its owner because its stdin closes. Containers remain if the owner
was killed between `create` and `start`. A label identifies the owner by machine boot, PID
namespace, process id and start time, so a reused process id or another container is never mistaken
for it.
"""

from __future__ import annotations

import contextlib
import functools
import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any, Literal

Fate = Literal["alive", "gone", "unknown"]
"""State of an owner.

`unknown` means another PID namespace, perhaps another machine, or a process hidden from this user.
"""
RUN_LABEL = "envgym.run"
OWNER_LABEL = "envgym.owner"


@functools.cache
def _run_of(_pid: int) -> str:
    return uuid.uuid4().hex


def labels() -> dict[str, str]:
    """Return the labels of a container that this process owns."""
    return {RUN_LABEL: _run_of(os.getpid()), OWNER_LABEL: owner()}


def owner() -> str:
    """Return the label of this process, `boot:namespace:pid:start`."""
    return f"{_boot()}:{_namespace()}:{os.getpid()}:{_started(os.getpid())}"


def fate(label: str, *, engine_is_local: bool) -> Fate:
    """Return the state of the process of an owner label.

    Args:
        engine_is_local: The engine serves only this machine, so owners of earlier boots are gone.
    """
    try:
        boot, namespace, pid, started = label.split(":")
    except ValueError:
        return "unknown"
    if boot != _boot():
        return "gone" if engine_is_local else "unknown"
    if namespace != _namespace():
        return "unknown"
    now = _started(int(pid))
    return "unknown" if now is None else "alive" if now == started else "gone"


def is_gone(label: str, *, engine_is_local: bool) -> bool:
    """Return whether the owner has certainly ended. False if that is unknown."""
    return fate(label, engine_is_local=engine_is_local) == "gone"


def owned(api: Any) -> list[dict[str, Any]]:
    """Return envgym's containers in any state, each with the state of its owner as `Fate`."""
    local = str(api.base_url).startswith("http+docker://")
    found = api.containers(all=True, filters={"label": OWNER_LABEL})
    return [
        each | {"Fate": fate(each["Labels"][OWNER_LABEL], engine_is_local=local)} for each in found
    ]


def reap_orphans(api: Any) -> list[str]:
    """Remove envgym's orphaned containers.

    Args:
        api: A `docker.APIClient`.

    Returns:
        Ids of the removed containers.
    """
    import docker.errors

    removed = []
    for container in owned(api):
        if container["Fate"] == "gone":
            try:
                api.remove_container(container["Id"], force=True, v=True)
            except docker.errors.APIError:
                continue  # It ended by itself, or another process removed it.
            removed.append(container["Id"])
    return removed


def reap_quietly(api: Any) -> None:
    """Call `reap_orphans` and ignore errors of the engine."""
    import docker.errors
    import requests

    with contextlib.suppress(docker.errors.DockerException, requests.RequestException, OSError):
        reap_orphans(api)


@functools.cache
def _boot() -> str:
    if sys.platform == "darwin":
        return _said_by("sysctl", "-n", "kern.bootsessionuuid")
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _namespace() -> str:
    return str(os.stat("/proc/self/ns/pid").st_ino) if sys.platform == "linux" else "0"


def _started(pid: int) -> str | None:
    """Return the start time of a process in an opaque unit.

    Empty if there is no such process, `None` if this user may not see it.
    """
    if sys.platform != "linux":
        return _said_by("ps", "-o", "lstart=", "-p", str(pid)).replace(":", ".").replace(" ", "_")
    try:
        # The second field is the program's name in brackets and may contain anything; field 22 is
        # the start.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except PermissionError:
        return None
    except (FileNotFoundError, ProcessLookupError):
        return None if _is_hidden(pid) else ""
    return "" if fields[0] in "ZX" else fields[19]


def _is_hidden(pid: int) -> bool:
    """Return whether /proc hides an existing process of another user (mount option hidepid)."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except ProcessLookupError:
        pass
    return False


def _said_by(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
