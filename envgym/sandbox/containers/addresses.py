"""Find the socket of a container engine on this machine.

The order is DOCKER_HOST, the current Docker context (`DOCKER_CONTEXT`, then `docker context use`;
TLS contexts work too), Docker's default sockets, podman's default sockets. An explicit choice is
never bypassed: if DOCKER_HOST or a context does not respond, no other address is tried. Backend
`podman` uses `CONTAINER_HOST` or podman's default sockets.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from envgym.errors import PrerequisiteError

EngineName = Literal["docker", "podman"]

NOW_LOCAL = "or run without it: sandbox.backend=local"
START_PODMAN = (
    "systemctl --user start podman.socket (as root: sudo systemctl start podman.socket), "
    "or podman system service -t 0"
)
START_DOCKER = "Start Docker, or podman's service (systemctl --user start podman.socket)"


@dataclass(frozen=True, slots=True)
class Address:
    """Address at which a container engine should listen."""

    url: str
    """URL such as `unix:///var/run/docker.sock`."""
    found: str
    """Origin of the address, for messages: `DOCKER_HOST`, `Docker context 'x'`, ..."""
    tls: Any = None
    """TLS settings, a `docker.tls.TLSConfig`. `None` for a plain connection."""
    is_chosen: bool = False
    """The user chose this address, so no other one is tried."""


def addresses(backend: EngineName = "docker") -> list[Address]:
    """Return the addresses at which to try `backend`, in order.

    Raises:
        PrerequisiteError: If the Docker context does not exist or cannot be read.
    """
    chosen = _container_host() if backend == "podman" else _docker_host() or _current_context()
    if chosen:
        return [chosen]
    podman = [
        Address(f"unix://{path}", "the usual socket of podman")
        for path in _podman_sockets()
        if path.exists()
    ]
    if backend == "podman":
        return podman
    return [
        Address(f"unix://{path}", "the usual socket of Docker")
        for path in _docker_sockets()
        if path.exists()
    ] + podman


def short(error: Exception) -> str:
    """Return the first line of an error, at most 200 characters."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _docker_host() -> Address | None:
    host = os.environ.get("DOCKER_HOST")
    if not host:
        return None
    import docker.errors
    from docker.utils import kwargs_from_env

    try:
        tls = kwargs_from_env().get("tls")
    except docker.errors.DockerException as error:
        raise PrerequisiteError(
            f"DOCKER_HOST: its TLS files cannot be used ({short(error)}). Correct DOCKER_CERT_PATH "
            f"and DOCKER_TLS_VERIFY, {NOW_LOCAL}"
        ) from None
    return Address(host, "DOCKER_HOST", tls, is_chosen=True)


def _container_host() -> Address | None:
    host = os.environ.get("CONTAINER_HOST")
    return Address(host, "CONTAINER_HOST", is_chosen=True) if host else None


def _current_context() -> Address | None:
    """Return the address of the current Docker context. `None` for `default`, the usual socket."""
    folder = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker")
    name = os.environ.get("DOCKER_CONTEXT")
    if not name and not (folder / "config.json").exists():
        return None  # Importing the SDK takes a third of a second; skip it if there is no context.
    from docker.context import ContextAPI
    from docker.context.config import get_current_context_name

    name = name or get_current_context_name()
    if name == "default":
        return None
    remedy = (
        "List contexts with `docker context ls`, go back with `docker context use default` (or "
        f"unset DOCKER_CONTEXT), {NOW_LOCAL}"
    )
    try:
        context = ContextAPI.get_context(name)
    except Exception as error:  # The SDK raises a plain Exception for a damaged file.
        raise PrerequisiteError(
            f"the Docker context '{name}' cannot be read ({short(error)}). {remedy}"
        ) from None
    if context is None or not context.Host:
        # The SDK looks for contexts beside config.json and finds none if that file is missing.
        hint = (
            ""
            if (folder / "config.json").exists()
            else f" ({folder}/config.json is missing; without it no context can be found)"
        )
        raise PrerequisiteError(f"there is no Docker context '{name}'{hint}. {remedy}")
    return Address(context.Host, f"Docker context '{name}'", context.TLSConfig, is_chosen=True)


def _docker_sockets() -> Iterator[Path]:
    yield Path("/var/run/docker.sock")
    yield _runtime_folder() / "docker.sock"  # rootless
    yield Path.home() / ".docker/run/docker.sock"  # Docker Desktop
    yield Path.home() / ".colima/default/docker.sock"


def _podman_sockets() -> Iterator[Path]:
    yield _runtime_folder() / "podman/podman.sock"
    yield Path("/run/podman/podman.sock")
    yield (
        Path.home() / ".local/share/containers/podman/machine/podman.sock"
    )  # podman machine, on a Mac


def _runtime_folder() -> Path:
    return Path(os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}")
