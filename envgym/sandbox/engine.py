"""Finds a container engine, Docker or podman, quickly and with a clear word where there is none.

Where is looked, in this order: `DOCKER_HOST`; the current Docker context (`DOCKER_CONTEXT`, else `docker context use`; TLS
contexts too); the usual sockets of Docker, then of podman. What a person chose is never passed over: where DOCKER_HOST or a
context does not answer, nothing else is tried. The backend `podman` takes `CONTAINER_HOST`, podman's own variable, or podman's
usual sockets. One SDK (`docker`) speaks to both engines. Images are found in `images.py`.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from envgym.errors import PrerequisiteError, SpecError

EngineName = Literal["docker", "podman"]

ANSWER_SECONDS = 2
"""An engine that has not answered by then is none."""
WORK_SECONDS = 120
"""Time for one request once the engine is known to be there."""
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


@dataclass(frozen=True, slots=True)
class Engine:
    """An engine that answers."""

    api: Any
    """A `docker.APIClient`."""
    address: Address
    name: EngineName
    version: str


def connect(backend: EngineName = "docker") -> Any:
    """A `docker.APIClient` of the engine that `find_engine` finds. Raises PrerequisiteError."""
    return find_engine(backend).api


def find_engine(backend: EngineName = "docker") -> Engine:
    """The first engine that answers. Raises PrerequisiteError with the way out.

    Args:
        backend: `docker` takes any engine that speaks Docker's API, podman's too; `podman` takes podman alone.
    """
    silent = []
    for address in addresses(backend):
        try:
            engine = _engine_at(address)
        except (_docker_errors().DockerException, OSError) as error:
            silent.append(f"{address.url} ({address.found}: {short(error)})")
            continue
        if backend == "podman" and engine.name != "podman":
            engine.api.close()
            raise PrerequisiteError(f"what answers at {address.url} ({address.found}) is Docker, not podman. Take "
                                    f"sandbox.backend=docker, or start podman's service: {START_PODMAN}")  # fmt: skip
        return engine
    raise PrerequisiteError(_no_engine(backend, silent))


def addresses(backend: EngineName = "docker") -> list[Address]:
    """Where `backend` may listen, in the order in which it is tried. Raises PrerequisiteError for a context that is unknown."""
    chosen = _container_host() if backend == "podman" else _docker_host() or _current_context()
    if chosen:
        return [chosen]
    podman = [Address(f"unix://{path}", "the usual socket of podman") for path in _podman_sockets() if path.exists()]
    if backend == "podman":
        return podman
    return [Address(f"unix://{path}", "the usual socket of Docker") for path in _docker_sockets() if path.exists()] + podman


def is_podman(api: Any) -> bool:
    """Whether a `docker.APIClient` speaks to podman."""
    return _name_and_version(api)[0] == "podman"


def check_network(api: Any, network: str) -> None:
    """Raises PrerequisiteError for a network that the engine does not have, SpecError for the host's own."""
    if network == "none":
        return
    if network == "host" or network.startswith("container:"):
        raise SpecError(f"sandbox.network: '{network}' is no network of the box's own and is refused. Take none, or create one: "
                        "docker network create NAME")  # fmt: skip
    known = sorted({each["Name"] for each in api.networks()} - {"host", "none"})
    if network not in known:
        raise PrerequisiteError(f"sandbox.network: the engine has no network '{network}'; it has: {', '.join(known) or 'none'}. "
                                f"Create it (docker network create {network}), or take sandbox.network=none")  # fmt: skip


def check_runtime(api: Any, runtime: str | None) -> None:
    """Raises PrerequisiteError for a runtime that podman would silently ignore; Docker itself refuses when it creates a box."""
    default = api.info().get("DefaultRuntime") if runtime and is_podman(api) else runtime
    if default != runtime:
        raise PrerequisiteError(f"sandbox.runtime: podman's service runs every container with '{default}' and ignores "
                                f"'{runtime}'. Set runtime=\"{runtime}\" under [engine] in containers.conf and restart the service, "
                                "or leave sandbox.runtime out")  # fmt: skip


def refused_runtime(api: Any, runtime: str, why: str) -> PrerequisiteError:
    """What to tell people when the engine refused a runtime; it lists those that the engine has."""
    known = ", ".join(sorted(api.info().get("Runtimes") or {}))
    return PrerequisiteError(f"sandbox.runtime: the engine refused '{runtime}' ({why}). Runtimes of this engine: {known}. "
                             "Install it and name it in the engine's configuration, or leave sandbox.runtime out")  # fmt: skip


def is_missing(error: Exception) -> bool:
    """Whether an engine's refusal says that the container is gone: 404, or podman's 500 `no such container`."""
    return getattr(error, "status_code", None) == 404 or "no such container" in str(error).lower()


def short(error: Exception) -> str:
    """The first line of an error, for a message of ours."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _docker_host() -> Address | None:
    host = os.environ.get("DOCKER_HOST")
    if not host:
        return None
    from docker.utils import kwargs_from_env

    try:
        tls = kwargs_from_env().get("tls")
    except _docker_errors().DockerException as error:
        raise PrerequisiteError(f"DOCKER_HOST: its TLS files cannot be used ({short(error)}). Correct DOCKER_CERT_PATH and "
                                f"DOCKER_TLS_VERIFY, {NOW_LOCAL}") from None  # fmt: skip
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
        raise PrerequisiteError(f"the Docker context '{name}' cannot be read ({short(error)}). {way_out}") from None
    if context is None or not context.Host:
        # The SDK looks for contexts beside config.json and finds none where that file is missing.
        hint = "" if (folder / "config.json").exists() else f" ({folder}/config.json is missing, without it none is found)"
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
    yield Path.home() / ".local/share/containers/podman/machine/podman.sock"  # podman machine, on a Mac


def _runtime_folder() -> Path:
    return Path(os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}")


def _engine_at(address: Address) -> Engine:
    if address.url.startswith("ssh://") and importlib.util.find_spec("paramiko") is None:
        raise PrerequisiteError(f"{address.url} ({address.found}) needs paramiko: pip install 'docker[ssh]'; {NOW_LOCAL}")
    import docker

    api = docker.APIClient(
        base_url=address.url, tls=address.tls or False, version="auto", timeout=ANSWER_SECONDS, max_pool_size=32
    )
    api.timeout = WORK_SECONDS
    return Engine(api, address, *_name_and_version(api))


def _name_and_version(api: Any) -> tuple[EngineName, str]:
    said = api.version()
    components = {each.get("Name"): each for each in said.get("Components") or []}
    podman = components.get("Podman Engine")
    return ("podman", podman["Version"]) if podman else ("docker", said.get("Version", "of unknown version"))


def _no_engine(backend: EngineName, silent: list[str]) -> str:
    if backend == "podman":
        what = f"no podman engine answers at {'; '.join(silent)}" if silent else "no podman engine: no socket of podman was found"
        return f"{what}. Start its service: {START_PODMAN}; CONTAINER_HOST names another address; {NOW_LOCAL}"
    if silent:
        return f"no Docker engine answers at {'; '.join(silent)}. {START_DOCKER}, {NOW_LOCAL}"
    nowhere = "DOCKER_HOST is not set, there is no Docker context and no socket was found"
    return f"no Docker engine: {nowhere}. {START_DOCKER}, {NOW_LOCAL}"


def _docker_errors() -> Any:
    import docker.errors

    return docker.errors
