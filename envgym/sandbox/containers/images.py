"""Container image of the boxes: an existing one by name, or one built from the user's Dockerfile.

A built image is tagged `envgym-build:<hash>` with the hash of the Dockerfile and of the files and
modes that `.dockerignore` lets through. Equal contexts are built once, also by concurrent
processes. Not supported: detecting a base image that changed under the same name (remove the built
image to build again), build arguments, BuildKit syntax (the classic builder is used).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import os
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from envgym.errors import PrerequisiteError, SpecError
from envgym.sandbox.containers.addresses import NOW_LOCAL, short
from envgym.sandbox.options import BuildOptions, SandboxOptions
from envgym.secrets import get_logger

BUILD_SECONDS = 1800
"""Timeout in seconds between two messages of the engine during a build."""
LOG_LINES = 20
"""Lines of a failed build's log that the error message shows."""
OUTSIDE = ".envgym.Dockerfile"
"""Name in the archive of a Dockerfile from outside the context."""


def image_of(api: Any, options: SandboxOptions, *, root: Path) -> str:
    """Return the name of an available image, after pulling or building it if necessary.

    Args:
        root: Folder of the YAML, to which `options.build` is relative.

    Raises:
        PrerequisiteError: If the image can be neither pulled nor built.
    """
    if options.build:
        return build_image(api, options.build, root=root)
    ensure_image(api, options.image)
    return options.image


def ensure_image(api: Any, image: str) -> None:
    """Pull an image if the engine does not have it. Raises PrerequisiteError."""
    import docker.errors
    from docker.utils import parse_repository_tag

    if has_image(api, image):
        return
    get_logger("envgym").warning("pulling the image %s, once", image)
    trouble = ""
    try:
        repository, tag = parse_repository_tag(image)
        for event in api.pull(repository, tag=tag or "latest", stream=True, decode=True):
            trouble = event.get("error", trouble)
        api.inspect_image(image)
    except (docker.errors.DockerException, OSError) as error:
        why = trouble or short(error)
        remedy = (
            f"Build it (docker build -t {image} ...), set another one with sandbox.image=..., "
            f"{NOW_LOCAL}"
        )
        raise PrerequisiteError(
            f"the engine has no image '{image}' and cannot pull it ({why}). {remedy}"
        ) from None


def has_image(api: Any, image: str) -> bool:
    """Return whether the engine has an image."""
    import docker.errors

    try:
        api.inspect_image(image)
    except docker.errors.ImageNotFound:
        return False
    return True


def build_image(api: Any, build: BuildOptions, *, root: Path) -> str:
    """Build the image if it does not exist, and return its tag.

    Raises:
        PrerequisiteError: If the build fails; the message ends with the log.
        SpecError: If there is no Dockerfile.
    """
    context = (root / build.context).resolve()
    dockerfile = context / build.dockerfile
    if not dockerfile.is_file():
        raise SpecError(
            f"sandbox.build: no such file: {dockerfile}. `context` is relative to the YAML's "
            "folder, `dockerfile` to the context"
        )
    with tempfile.TemporaryFile() as archive:
        name = pack_context(context, dockerfile, archive)
        tag = tag_of(archive, name)
        with _alone(tag):
            if not has_image(api, tag):
                _build(api, tag, archive, name, dockerfile)
    return tag


def pack_context(context: Path, dockerfile: Path, archive: io.BufferedRandom) -> str:
    """Write the build context as a reproducible archive. Return the Dockerfile's name in it."""
    inside = dockerfile.resolve().is_relative_to(context)
    name = dockerfile.resolve().relative_to(context).as_posix() if inside else OUTSIDE
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for path in _let_through(context, name):
            _add(tar, path, context / path)
        if not inside:
            _add(tar, name, dockerfile)
    return name


def _let_through(context: Path, dockerfile: str) -> list[str]:
    from docker.utils import exclude_paths

    ignore = context / ".dockerignore"
    lines = ignore.read_text(encoding="utf-8").splitlines() if ignore.is_file() else []
    patterns = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    return sorted(exclude_paths(str(context), patterns, dockerfile=dockerfile))


def _add(tar: tarfile.TarFile, name: str, path: Path) -> None:
    entry = tar.gettarinfo(path, arcname=name)
    if entry is None:  # Sockets cannot be archived.
        return
    # Owner and time of a file must not change the hash.
    entry.uid = entry.gid = entry.mtime = 0
    entry.uname = entry.gname = ""
    with open(path, "rb") if entry.isfile() else contextlib.nullcontext() as data:
        tar.addfile(entry, data)


def tag_of(archive: io.BufferedRandom, dockerfile: str) -> str:
    """Return the tag of the image built from an archive and the Dockerfile with this name in it."""
    archive.seek(0)
    digest = hashlib.file_digest(archive, "sha256")
    digest.update(dockerfile.encode())
    archive.seek(0)
    return f"envgym-build:{digest.hexdigest()[:16]}"


@contextlib.contextmanager
def _alone(tag: str) -> Iterator[None]:
    """Hold a lock per user and tag. The kernel releases the lock of a killed process."""
    path = Path(tempfile.gettempdir()) / f"{tag.replace(':', '-')}-{os.getuid()}.lock"
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(api: Any, tag: str, archive: io.BufferedRandom, name: str, dockerfile: Path) -> None:
    import docker.errors
    import requests

    get_logger("envgym").warning("building the image %s from %s, once", tag, dockerfile)
    log = []
    trouble = ""
    try:
        events = api.build(
            fileobj=archive,
            custom_context=True,
            dockerfile=name,
            tag=tag,
            rm=True,
            forcerm=True,
            decode=True,
            timeout=BUILD_SECONDS,
            labels={"envgym.build": tag},
        )
        for event in events:
            log.append(event.get("stream", ""))
            trouble = event.get("error", trouble)
    except (docker.errors.DockerException, requests.RequestException, OSError) as error:
        trouble = short(error)
    if trouble or not has_image(api, tag):
        end = "\n".join(f"  {line}" for line in "".join(log).splitlines()[-LOG_LINES:])
        why = trouble or "the engine built no image"
        raise PrerequisiteError(
            f"sandbox.build: {dockerfile} cannot be built ({why}). The end of its log:"
            f"\n{end}\nCorrect it, set an image with sandbox.image=..., {NOW_LOCAL}"
        )
