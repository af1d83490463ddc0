"""Reaches a container engine, Docker or podman, quickly and with a clear word where there is none or where it refuses.

One SDK (`docker`) speaks to both. Where an engine is looked for: `addresses.py`. Images: `images.py`.
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
"""An engine that has not answered by then is none."""
WORK_SECONDS = 120
"""Time for one request once the engine is known to be there."""


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
                f"what answers at {address.url} ({address.found}) is Docker, not podman. Take "
                f"sandbox.backend=docker, or start podman's service: {START_PODMAN}"
            )
        return engine
    raise PrerequisiteError(_no_engine(backend, silent))


def is_podman(api: Any) -> bool:
    """Whether a `docker.APIClient` speaks to podman."""
    return _name_and_version(api)[0] == "podman"


def check_network(api: Any, network: str) -> None:
    """Raises PrerequisiteError for a network that the engine does not have, SpecError for the host's own."""
    if network == "none":
        return
    if network == "host" or network.startswith("container:"):
        raise SpecError(
            f"sandbox.network: '{network}' is no network of the box's own and is refused. Take none, or create one: "
            "docker network create NAME"
        )
    known = sorted({each["Name"] for each in api.networks()} - {"host", "none"})
    if network not in known:
        raise PrerequisiteError(
            f"sandbox.network: the engine has no network '{network}'; it has: {', '.join(known) or 'none'}. "
            f"Create it (docker network create {network}), or take sandbox.network=none"
        )


def check_runtime(api: Any, runtime: str | None) -> None:
    """Raises PrerequisiteError for a runtime that podman would silently ignore; Docker itself refuses when it creates a box."""
    default = api.info().get("DefaultRuntime") if runtime and is_podman(api) else runtime
    if default != runtime:
        raise PrerequisiteError(
            f"sandbox.runtime: podman's service runs every container with '{default}' and ignores "
            f"'{runtime}'. Set runtime=\"{runtime}\" under [engine] in containers.conf and restart the "
            "service, or leave sandbox.runtime out"
        )


def refused_runtime(api: Any, runtime: str, why: str) -> PrerequisiteError:
    """What to tell people when the engine refused a runtime; it lists those that the engine has."""
    known = ", ".join(sorted(api.info().get("Runtimes") or {}))
    return PrerequisiteError(
        f"sandbox.runtime: the engine refused '{runtime}' ({why}). Runtimes of this engine: {known}. "
        "Install it and name it in the engine's configuration, or leave sandbox.runtime out"
    )


def _bundle_hint(address: Address) -> str:
    """A bundle named in the environment goes before the session's own CA. https://github.com/psf/requests/issues/3829"""
    name = next(
        (name for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE") if os.environ.get(name)), None
    )
    return (
        f"; {name} is set and goes before the engine's own CA, unset it"
        if address.tls and name
        else ""
    )


def _engine_at(address: Address) -> Engine:
    if address.url.startswith("ssh://") and importlib.util.find_spec("paramiko") is None:
        raise PrerequisiteError(
            f"{address.url} ({address.found}) needs paramiko: pip install 'docker[ssh]'; {NOW_LOCAL}"
        )
    import docker

    where = {"base_url": address.url, "tls": address.tls or False}
    api = docker.APIClient(**where, version="auto", timeout=ANSWER_SECONDS, max_pool_size=32)
    api.timeout = WORK_SECONDS
    _share_connections(api)
    return Engine(api, address, *_name_and_version(api))


def _share_connections(api: Any) -> None:
    """One pool of connections for the whole socket. The SDK has one for each URL, thus for each request about a container: nearly
    each request connects anew, and the 26th pool closes the oldest under whoever is about to use it.
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
        return f"{what}. Start its service: {START_PODMAN}; CONTAINER_HOST names another address; {NOW_LOCAL}"
    if silent:
        return f"no Docker engine answers at {'; '.join(silent)}. {START_DOCKER}, {NOW_LOCAL}"
    nowhere = "DOCKER_HOST is not set, there is no Docker context and no socket was found"
    return f"no Docker engine: {nowhere}. {START_DOCKER}, {NOW_LOCAL}"
