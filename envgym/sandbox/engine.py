"""Finds a Docker engine and an image in it, quickly and with a clear word where there is none."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from envgym.errors import PrerequisiteError

ANSWER_SECONDS = 2
"""An engine that has not answered by then is none."""
WORK_SECONDS = 120
"""Time for one request once the engine is known to be there."""
NOW_LOCAL = "or run without it: sandbox.backend=local"


def address() -> str | None:
    """Where an engine should listen: DOCKER_HOST, or the first socket found in the usual places."""
    if host := os.environ.get("DOCKER_HOST"):
        return host
    rootless = Path(os.environ.get("XDG_RUNTIME_DIR", "/nowhere")) / "docker.sock"
    desktops = (Path.home() / ".docker/run/docker.sock", Path.home() / ".colima/default/docker.sock")
    usual = (Path("/var/run/docker.sock"), rootless, *desktops)
    return next((f"unix://{path}" for path in usual if path.exists()), None)


def connect() -> Any:
    """A `docker.APIClient` of an engine that answers. Raises PrerequisiteError."""
    where = address()
    if where is None:
        raise PrerequisiteError(f"no Docker engine: DOCKER_HOST is not set and no socket was found. Start Docker, {NOW_LOCAL}")
    import docker
    import docker.errors
    from docker.utils import kwargs_from_env

    try:
        settings = kwargs_from_env() | ({} if "DOCKER_HOST" in os.environ else {"base_url": where})
        api = docker.APIClient(version="auto", timeout=ANSWER_SECONDS, max_pool_size=32, **settings)
    except (docker.errors.DockerException, OSError) as error:
        raise PrerequisiteError(f"no Docker engine answers at {where} ({_short(error)}). Start Docker, {NOW_LOCAL}") from None
    api.timeout = WORK_SECONDS
    return api


def ensure_image(api: Any, image: str) -> None:
    """Pulls an image that the engine does not have. Raises PrerequisiteError."""
    import docker.errors
    from docker.utils import parse_repository_tag

    try:
        api.inspect_image(image)
        return
    except docker.errors.ImageNotFound:
        pass
    logging.getLogger("envgym").warning("pulling the image %s, once", image)
    trouble = ""
    try:
        repository, tag = parse_repository_tag(image)
        for event in api.pull(repository, tag=tag or "latest", stream=True, decode=True):
            trouble = event.get("error", trouble)
        api.inspect_image(image)
    except (docker.errors.DockerException, OSError) as error:
        why = trouble or _short(error)
        way_out = f"Build it (docker build -t {image} ...), name another one with sandbox.image=..., {NOW_LOCAL}"
        raise PrerequisiteError(f"the engine has no image '{image}' and cannot pull it ({why}). {way_out}") from None


def _short(error: Exception) -> str:
    return str(error).splitlines()[0][:200]
