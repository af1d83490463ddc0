"""Connect to a container engine, Docker or podman, with the `docker` SDK.

If no engine responds or it refuses a setting, the error names the remedy. See `addresses.py` for
the search order and `images.py` for images.
"""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from typing import Any

from envgym.errors import PrerequisiteError, SpecError
from envgym.sandbox.containers.addresses import (
    NOW_LOCAL,
    START_DOCKER,
    START_PODMAN,
    Address,
    EngineName,
    addresses,
    short,
)

ANSWER_SECONDS = 2
"""Timeout in seconds for the first response of an engine."""
WORK_SECONDS = 120
"""Timeout in seconds of later requests."""


@dataclass(frozen=True, slots=True)
class ContainerEngine:
    """Container engine that responds."""

    api: Any
    """Client of the engine, a `docker.APIClient`."""
    address: Address
    name: EngineName
    version: str


def connect(backend: EngineName = "docker") -> Any:
    """Return a client (`docker.APIClient`) for the engine that `find_engine` finds.

    Raises:
        PrerequisiteError: If no engine responds.
    """
    return find_engine(backend).api


def find_engine(backend: EngineName = "docker") -> ContainerEngine:
    """Return the first engine that responds.

    Args:
        backend: `docker` accepts any engine with Docker's API, also podman; `podman` only podman.

    Raises:
        PrerequisiteError: If no engine responds; the message names the remedy.
    """
    import docker.errors

    silent = []
    for address in addresses(backend):
        try:
            engine = _engine_at(address)
        except (docker.errors.DockerException, OSError) as error:
            silent.append(f"{address.url} ({address.found}: {short(error)}{_bundle_hint(address)})")
            continue
        if backend == "podman" and engine.name != "podman":
            engine.api.close()
            raise PrerequisiteError(
                f"the engine at {address.url} ({address.found}) is Docker, not podman. Use "
                f"sandbox.backend=docker, or start podman's service: {START_PODMAN}"
            )
        return engine
    raise PrerequisiteError(_no_engine(backend, silent))


def engine_facts(backend: EngineName = "docker") -> dict[str, object]:
    """Return name, version, address, origin, runtimes and networks of an engine.

    Raises:
        PrerequisiteError: If no engine responds.
    """
    engine = find_engine(backend)
    try:
        return {
            "name": engine.name,
            "version": engine.version,
            "address": engine.address.url,
            "found": engine.address.found,
            "runtimes": sorted(engine.api.info().get("Runtimes") or {}),
            "networks": sorted(each["Name"] for each in engine.api.networks()),
        }
    finally:
        engine.api.close()


def is_podman(api: Any) -> bool:
    """Return whether a `docker.APIClient` is connected to podman."""
    return _name_and_version(api)[0] == "podman"


def check_network(api: Any, network: str) -> None:
    """Check that boxes may use a network.

    Raises:
        PrerequisiteError: If the engine does not have the network.
        SpecError: If it is the host's network or another container's.
    """
    if network == "none":
        return
    if network == "host" or network.startswith("container:"):
        raise SpecError(
            f"sandbox.network: '{network}' is not isolated from the host or other containers and "
            "is refused. Use sandbox.network=none, or create a network: "
            "docker network create NAME"
        )
    known = sorted({each["Name"] for each in api.networks()} - {"host", "none"})
    if network not in known:
        raise PrerequisiteError(
            f"sandbox.network: the engine has no network '{network}'; it has: "
            f"{', '.join(known) or 'none'}. "
            f"Create it (docker network create {network}), or set sandbox.network=none"
        )


def check_runtime(api: Any, runtime: str | None) -> None:
    """Check that podman uses the runtime, because it silently ignores the setting.

    Docker itself reports an unknown runtime when it creates a container.

    Raises:
        PrerequisiteError: If podman's service uses another runtime.
    """
    default = api.info().get("DefaultRuntime") if runtime and is_podman(api) else runtime
    if default != runtime:
        raise PrerequisiteError(
            f"sandbox.runtime: podman's service runs every container with '{default}' and ignores "
            f"'{runtime}'. Set runtime=\"{runtime}\" under [engine] in containers.conf and restart "
            "the service, or remove sandbox.runtime"
        )


def refused_runtime(api: Any, runtime: str, why: str) -> PrerequisiteError:
    """Return the error for a refused runtime, with the list of available ones."""
    known = ", ".join(sorted(api.info().get("Runtimes") or {}))
    return PrerequisiteError(
        f"sandbox.runtime: the engine refused '{runtime}' ({why}). Runtimes of this engine: "
        f"{known}. Install it and add it to the engine's configuration, or remove sandbox.runtime"
    )


def _bundle_hint(address: Address) -> str:
    """Return a hint if a CA bundle in the environment overrides the engine's CA.

    References:
        https://github.com/psf/requests/issues/3829
    """
    name = next(
        (name for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE") if os.environ.get(name)), None
    )
    return (
        f"; {name} is set and overrides the engine's CA, unset it" if address.tls and name else ""
    )


def _engine_at(address: Address) -> ContainerEngine:
    if address.url.startswith("ssh://") and importlib.util.find_spec("paramiko") is None:
        raise PrerequisiteError(
            f"{address.url} ({address.found}) needs paramiko: pip install 'docker[ssh]', "
            f"{NOW_LOCAL}"
        )
    import docker

    where = {"base_url": address.url, "tls": address.tls or False}
    api = docker.APIClient(**where, version="auto", timeout=ANSWER_SECONDS, max_pool_size=32)
    api.timeout = WORK_SECONDS
    _share_connections(api)
    return ContainerEngine(api, address, *_name_and_version(api))


def _share_connections(api: Any) -> None:
    """Use one connection pool for the whole socket.

    The SDK has one pool per URL, thus per container: nearly every request opens a new connection,
    and the 26th pool closes the oldest one, which may be in use.

    References:
        https://github.com/docker/docker-py/blob/7.1.0/docker/transport/unixconn.py
    """
    from docker.transport import UnixHTTPAdapter

    adapter = api.get_adapter(api.base_url)
    if isinstance(adapter, UnixHTTPAdapter):
        pool_of = adapter.get_connection
        adapter.get_connection = lambda url, proxies=None: pool_of(api.base_url, proxies)


def _name_and_version(api: Any) -> tuple[EngineName, str]:
    said = api.version()
    components = {each.get("Name"): each for each in said.get("Components") or []}
    podman = components.get("Podman Engine")
    return (
        ("podman", podman["Version"])
        if podman
        else ("docker", said.get("Version", "of unknown version"))
    )


def _no_engine(backend: EngineName, silent: list[str]) -> str:
    if backend == "podman":
        what = (
            f"no podman engine answers at {'; '.join(silent)}"
            if silent
            else "no podman engine: no socket of podman was found"
        )
        return (
            f"{what}. Start its service: {START_PODMAN}; set CONTAINER_HOST for another address, "
            f"{NOW_LOCAL}"
        )
    if silent:
        return f"no Docker engine answers at {'; '.join(silent)}. {START_DOCKER}, {NOW_LOCAL}"
    nowhere = "DOCKER_HOST is not set, there is no Docker context and no socket was found"
    return f"no Docker engine: {nowhere}. {START_DOCKER}, {NOW_LOCAL}"
