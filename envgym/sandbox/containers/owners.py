"""Who owns a container, and the removal of containers whose owner is gone.

A container normally ends with its owner by itself: its stdin closes. What stays are those whose owner was killed between
`create` and `start`. An owner is named by machine boot, process namespace, process id and start time, so neither a reused
process id nor another container on this machine is taken for it.
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
"""Of an owner; `unknown` in another process namespace, perhaps on another machine, or hidden from this user."""
RUN_LABEL = "envgym.run"
OWNER_LABEL = "envgym.owner"


@functools.cache
def _run_of(_pid: int) -> str:
    return uuid.uuid4().hex


def labels() -> dict[str, str]:
    """The labels of a container that this process owns."""
    return {RUN_LABEL: _run_of(os.getpid()), OWNER_LABEL: owner()}


def owner() -> str:
    """This process as `boot:namespace:pid:start`."""
    return f"{_boot()}:{_namespace()}:{os.getpid()}:{_started(os.getpid())}"


def fate(label: str, *, engine_is_local: bool) -> Fate:
    """What became of the process of an owner label.

    Args:
        engine_is_local: the engine serves this machine only, so an owner of another boot ended with that boot.
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
    """Whether the process of an owner label has ended for certain; False where that cannot be known from here."""
    return fate(label, engine_is_local=engine_is_local) == "gone"


def owned(api: Any) -> list[dict[str, Any]]:
    """Envgym's containers as the engine lists them, in any state, each with the fate of its owner as `Fate`."""
    local = str(api.base_url).startswith("http+docker://")
    found = api.containers(all=True, filters={"label": OWNER_LABEL})
    return [
        each | {"Fate": fate(each["Labels"][OWNER_LABEL], engine_is_local=local)} for each in found
    ]


def reap_orphans(api: Any) -> list[str]:
    """Removes envgym's containers whose owner is gone.

    Args:
        api: a `docker.APIClient`.
    Returns: ids of the containers removed.
    """
    import docker.errors

    removed = []
    for container in owned(api):
        if container["Fate"] == "gone":
            try:
                api.remove_container(container["Id"], force=True, v=True)
            except docker.errors.APIError:
                continue  # going by itself, or taken by another reaper
            removed.append(container["Id"])
    return removed


def reap_quietly(api: Any) -> None:
    """`reap_orphans` where it is a favour to others: an engine that went away is no trouble."""
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
    """When a process started, in an opaque unit; empty where there is none, None where this user may not see it."""
    if sys.platform != "linux":
        return _said_by("ps", "-o", "lstart=", "-p", str(pid)).replace(":", ".").replace(" ", "_")
    try:
        # The second field is the program's name in brackets and may hold anything; field 22 is the start time.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except PermissionError:
        return None
    except (FileNotFoundError, ProcessLookupError):
        return None if _is_hidden(pid) else ""
    return "" if fields[0] in "ZX" else fields[19]


def _is_hidden(pid: int) -> bool:
    """Whether a process of another user is there that /proc does not show (its mount option hidepid)."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except ProcessLookupError:
        pass
    return False


def _said_by(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
