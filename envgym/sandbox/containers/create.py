"""Create hardened containers.

A container has no network by default, a read-only file system except /tmp and /dev/shm, no
capabilities, an unprivileged user, and limits on memory, CPU, processes and open files. Not
covered: kernel exploits; with isolation `fork`, sessions of one box that attack each other, because
they share a user id.
"""

from __future__ import annotations

import json
import resource
from pathlib import Path
from typing import Any

from envgym.sandbox.agent.fork.session_limits import AGENT_FILES
from envgym.sandbox.box.channel import FIXED_VARIABLES
from envgym.sandbox.box.checks import CAPABILITIES
from envgym.sandbox.containers.addresses import short
from envgym.sandbox.containers.engine import is_podman, refused_runtime
from envgym.sandbox.containers.owners import labels
from envgym.sandbox.options import SandboxOptions

HOME = "/envgym"
"""Private volume of the container with `agent/` and `app/`. Only root may write to it."""
NOBODY = "65534:65534"
MOST_PROCESSES = 2**15
"""Process limit of all podman boxes together, which share a user id. Podman's service lowers its
own limit to this number.
"""
SECCOMP = Path(__file__).parent / "seccomp.json"
"""Seccomp profile for boxes with namespaces: the usual system calls plus those that create
namespaces.
"""


def needs_namespaces(options: SandboxOptions) -> bool:
    """Return whether sessions use namespaces inside the container.

    With isolation `container` that is a second barrier.
    """
    return options.level in ("namespaces", "container")


def create(api: Any, image: str, options: SandboxOptions, *, is_check: bool = False) -> str:
    """Create a hardened container without starting it, and return its id.

    Args:
        is_check: The container runs a hidden test: root may start programs under another user.

    Raises:
        PrerequisiteError: If the engine refuses `options.runtime`.
        docker.errors.APIError: If the engine refuses for another reason.
    """
    import docker.errors
    from docker.types import LogConfig, Mount

    podman = is_podman(api)
    in_namespaces = needs_namespaces(options) and not is_check
    # Podman makes the container's user the owner of a volume, so that it could replace these files.
    # Mounted read-only it can still be filled from outside before the start. Docker makes root the
    # owner, and cannot fill a read-only volume.
    home = Mount(HOME, None, type="volume", no_copy=True, read_only=podman)
    limits = api.create_host_config(
        auto_remove=True,
        network_mode=options.network,
        runtime=options.runtime,
        read_only=True,
        tmpfs={"/tmp": f"size={options.tmpfs_mb}m,mode=1777,nosuid,nodev,noexec"},
        mounts=[home],
        cap_drop=["ALL"],
        cap_add=list(CAPABILITIES) if is_check else None,
        security_opt=[
            "no-new-privileges:true",
            *(_for_namespaces(api) if in_namespaces else []),
        ],
        shm_size=f"{options.tmpfs_mb}m",
        pids_limit=options.max_processes,
        mem_limit=f"{options.memory_mb}m",
        memswap_limit=f"{options.memory_mb}m",  # Equal to the memory limit: no swap.
        nano_cpus=int(options.cpus * 1e9),
        ulimits=_ulimits(options, podman=podman),
        # Output of tools would fill the engine's disk; attached streams do not need a log.
        log_config=LogConfig(type="none"),
    )
    if in_namespaces:
        # The kernel refuses to mount a new /proc while parts of the visible one are masked. The
        # unmasked parts are accessible to root only, and the box has no root.
        limits |= {"MaskedPaths": [], "ReadonlyPaths": []}
    try:
        # With detach=False the low-level call sets StdinOnce: if our end of stdin closes, so does
        # the agent's.
        return api.create_container(
            image,
            entrypoint=["python", "-s", f"{HOME}/agent"],
            command=[],
            user="0:0" if is_check else NOBODY,
            working_dir="/tmp",
            stdin_open=True,
            detach=False,
            tty=False,
            hostname="box",
            labels=labels(),
            host_config=limits,
            environment=FIXED_VARIABLES | {"HOME": "/tmp", "ENVGYM_SCRATCH": "/tmp"},
        )["Id"]
    except docker.errors.APIError as error:
        if options.runtime and "runtime" in str(error).lower():
            raise refused_runtime(api, options.runtime, short(error)) from None
        raise


def _for_namespaces(api: Any) -> list[str]:
    """Return security options that allow namespaces: our seccomp profile, and no AppArmor.

    The engine's own profiles forbid to create namespaces or to mount.
    """
    profile = json.dumps(json.loads(SECCOMP.read_text(encoding="utf-8")), separators=(",", ":"))
    has_apparmor = any(
        "name=apparmor" in option for option in api.info().get("SecurityOptions") or ()
    )
    return [f"seccomp={profile}", *(["apparmor=unconfined"] if has_apparmor else [])]


def _ulimits(options: SandboxOptions, *, podman: bool) -> list[Any]:
    from docker.types import Ulimit

    limits = {"nofile": options.max_open_files + AGENT_FILES, "core": 0}
    if podman:
        # Podman's default of a million is refused if the service may not raise limits.
        most = resource.getrlimit(resource.RLIMIT_NPROC)[1]
        limits["nproc"] = (
            MOST_PROCESSES if most == resource.RLIM_INFINITY else min(most, MOST_PROCESSES)
        )
    return [Ulimit(name=name, soft=limit, hard=limit) for name, limit in limits.items()]
