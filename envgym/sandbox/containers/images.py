"""The image that boxes are made of: one by name, or one built from a Dockerfile of the environment's own.

A built image is named by what went into it, `envgym-build:<hash>`: the files that `.dockerignore` lets through with their modes,
and the Dockerfile. The same files are built once; any change gives another image. Processes that want it at the same time on
one machine build it once, the others wait. Not covered: a base image that changed under the same name (remove the built image to
build anew), build arguments, BuildKit's syntax (the engine's classic builder is asked).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import logging
import os
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from envgym.errors import PrerequisiteError, SpecError
from envgym.sandbox.containers.addresses import NOW_LOCAL, short
from envgym.sandbox.options import BuildOptions, SandboxOptions

BUILD_SECONDS = 1800
"""Silence of the engine during a build after which it is given up."""
LOG_LINES = 20
"""How much of the end of a failed build's log people are shown."""
OUTSIDE = ".envgym.Dockerfile"
"""Name inside the context for a Dockerfile that lies outside of it."""


def image_of(api: Any, options: SandboxOptions, *, root: Path) -> str:
    """The name of an image that the engine has, after pulling or building it. Raises PrerequisiteError.

    Args:
        root: folder to which `options.build` is relative, the YAML's.
    """
    if options.build:
        return build_image(api, options.build, root=root)
    ensure_image(api, options.image)
    return options.image


def ensure_image(api: Any, image: str) -> None:
    """Pulls an image that the engine does not have. Raises PrerequisiteError."""
    import docker.errors
    from docker.utils import parse_repository_tag

    if has_image(api, image):
        return
    logging.getLogger("envgym").warning("pulling the image %s, once", image)
    trouble = ""
    try:
        repository, tag = parse_repository_tag(image)
        for event in api.pull(repository, tag=tag or "latest", stream=True, decode=True):
            trouble = event.get("error", trouble)
        api.inspect_image(image)
    except (docker.errors.DockerException, OSError) as error:
        why = trouble or short(error)
        way_out = f"Build it (docker build -t {image} ...), name another one with sandbox.image=..., {NOW_LOCAL}"
        raise PrerequisiteError(
            f"the engine has no image '{image}' and cannot pull it ({why}). {way_out}"
        ) from None


def has_image(api: Any, image: str) -> bool:
    """Whether the engine has an image."""
    import docker.errors

    try:
        api.inspect_image(image)
    except docker.errors.ImageNotFound:
        return False
    return True


def build_image(api: Any, build: BuildOptions, *, root: Path) -> str:
    """Builds the image once and returns its tag. Raises PrerequisiteError with the end of the log, SpecError for no context."""
    context = (root / build.context).resolve()
    dockerfile = context / build.dockerfile
    if not dockerfile.is_file():
        raise SpecError(
            f"sandbox.build: no such file: {dockerfile}. `context` is relative to the YAML's folder, "
            "`dockerfile` to the context"
        )
    with tempfile.TemporaryFile() as archive:
        name = pack_context(context, dockerfile, archive)
        tag = tag_of(archive, name)
        with _alone(tag):
            if not has_image(api, tag):
                _build(api, tag, archive, name, dockerfile)
    return tag


def pack_context(context: Path, dockerfile: Path, archive: io.BufferedRandom) -> str:
    """Writes the files of a build as a tar archive that is the same for the same files; returns the Dockerfile's name in it."""
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
    if entry is None:  # a socket
        return
    # Who owns a file here, and when it was written, is no part of what is built.
    entry.uid = entry.gid = entry.mtime = 0
    entry.uname = entry.gname = ""
    with open(path, "rb") if entry.isfile() else contextlib.nullcontext() as data:
        tar.addfile(entry, data)


def tag_of(archive: io.BufferedRandom, dockerfile: str) -> str:
    """The tag of what is built from an archive by the Dockerfile of that name in it."""
    archive.seek(0)
    digest = hashlib.file_digest(archive, "sha256")
    digest.update(dockerfile.encode())
    archive.seek(0)
    return f"envgym-build:{digest.hexdigest()[:16]}"


@contextlib.contextmanager
def _alone(tag: str) -> Iterator[None]:
    """One process of this user on this machine at a time; the kernel lets go of the lock of a process that was killed."""
    path = Path(tempfile.gettempdir()) / f"{tag.replace(':', '-')}-{os.getuid()}.lock"
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(api: Any, tag: str, archive: io.BufferedRandom, name: str, dockerfile: Path) -> None:
    import docker.errors
    import requests

    logging.getLogger("envgym").warning("building the image %s from %s, once", tag, dockerfile)
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
        why = trouble or "the engine made no image"
        raise PrerequisiteError(
            f"sandbox.build: {dockerfile} cannot be built ({why}). The end of its log:"
            f"\n{end}\nCorrect it, name an image with sandbox.image=..., {NOW_LOCAL}"
        )
