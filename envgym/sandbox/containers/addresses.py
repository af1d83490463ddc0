"""Where container engines listen on this machine, for people who said so and for those who did not.

The order: `DOCKER_HOST`; the current Docker context (`DOCKER_CONTEXT`, else `docker context use`; TLS contexts too); the usual
sockets of Docker, then of podman. What a person chose is never passed over: where DOCKER_HOST or a context does not answer,
nothing else is tried. The backend `podman` takes `CONTAINER_HOST`, podman's own variable, or podman's usual sockets.
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
START_PODMAN = "systemctl --user start podman.socket (as root: sudo systemctl start podman.socket), or podman system service -t 0"
START_DOCKER = "Start Docker, or podman's service (systemctl --user start podman.socket)"


@dataclass(frozen=True, slots=True)
class Address:
    """Where an engine should listen."""

    url: str
    """Such as `unix:///var/run/docker.sock`."""
    found: str
    """How it was found, for people: `DOCKER_HOST`, `Docker context 'x'`, `the usual socket of Docker`, ..."""
    tls: Any = None
    """A `docker.tls.TLSConfig`; None for a plain connection."""
    is_chosen: bool = False
    """A person named it, so no other address is tried in its place."""


def addresses(backend: EngineName = "docker") -> list[Address]:
    """Where `backend` may listen, in the order in which it is tried. Raises PrerequisiteError for a context that is unknown."""
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
    """The first line of an error, for a message of ours."""
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
            f"DOCKER_HOST: its TLS files cannot be used ({short(error)}). Correct DOCKER_CERT_PATH and "
            f"DOCKER_TLS_VERIFY, {NOW_LOCAL}"
        ) from None
    return Address(host, "DOCKER_HOST", tls, is_chosen=True)


def _container_host() -> Address | None:
    host = os.environ.get("CONTAINER_HOST")
    return Address(host, "CONTAINER_HOST", is_chosen=True) if host else None


def _current_context() -> Address | None:
    """The Docker context in force; None for `default`, which is the usual socket."""
    folder = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker")
    name = os.environ.get("DOCKER_CONTEXT")
    if not name and not (folder / "config.json").exists():
        return None  # before the SDK is imported: that takes a third of a second
    from docker.context import ContextAPI
    from docker.context.config import get_current_context_name

    name = name or get_current_context_name()
    if name == "default":
        return None
    way_out = f"`docker context ls` lists them, `docker context use default` (or unsetting DOCKER_CONTEXT) leaves it, {NOW_LOCAL}"
    try:
        context = ContextAPI.get_context(name)
    except Exception as error:  # the SDK raises a plain Exception for a file that is damaged
        raise PrerequisiteError(
            f"the Docker context '{name}' cannot be read ({short(error)}). {way_out}"
        ) from None
    if context is None or not context.Host:
        # The SDK looks for contexts beside config.json and finds none where that file is missing.
        hint = (
            ""
            if (folder / "config.json").exists()
            else f" ({folder}/config.json is missing, without it none is found)"
        )
        raise PrerequisiteError(f"there is no Docker context '{name}'{hint}. {way_out}")
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
