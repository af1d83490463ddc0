"""The `sandbox:` block of an environment: which boxes its tools get, how sessions are kept apart, and how many there are."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from envgym.block import Block
from envgym.sandbox import Backend, Isolation

FOR_CODE: tuple[Isolation, ...] = ("namespaces", "container")
"""Levels that hold code which a model wrote."""


class BuildOptions(Block):
    """What an image is built from."""

    context: str = "."
    """Folder of the files that the Dockerfile may copy, relative to the environment's YAML."""
    dockerfile: str = "Dockerfile"
    """The Dockerfile, relative to the context."""


class RecycleOptions(Block):
    """When a box is replaced by a fresh one; a box that broke the protocol or is not clean always is."""

    episodes: int = Field(default=1000, ge=1)
    """After it has served this many episodes."""
    seconds: float = Field(default=3600.0, gt=0)
    """After it has run for so long."""
    growth_mb: int = Field(default=256, ge=1)
    """After its memory has grown by this much while it was idle, MiB."""


class PoolOptions(Block):
    """How many boxes there are. One that is to go gets no new session and is replaced in the background."""

    boxes: int | None = Field(default=None, ge=1)
    """Most boxes at once; by default 2, and 16 with isolation `container`."""
    sessions: int = Field(default=32, ge=1)
    """Sessions that one box serves at once; the next box starts when all are full. 1 with isolation `container`."""
    ready: int = Field(default=2, ge=0)
    """Fresh boxes kept ready for the next sessions, with isolation `container`."""
    creators: int = Field(default=2, ge=1)
    """Boxes started at the same time; more than there are processors gain nothing."""
    recycle: RecycleOptions = RecycleOptions()


class SandboxOptions(Block):
    backend: Backend = "auto"
    """`auto` takes Docker (or podman) where an engine answers, else bubblewrap where the level asks for it, else a local process;
    `none` runs tools in this very process."""
    isolation: Literal["auto"] | Isolation = "auto"
    """What separates two episodes: their tables only (`state`), a process each (`fork`), namespaces each (`namespaces`), or a
    fresh box each (`container`). `auto` is `fork`, and `container` where tools execute code. Given as asked, or refused."""
    executes_code: bool = False
    """Tools run code that the model wrote (a shell, Python): asks for isolation `namespaces` or `container`."""
    image: str = "python:3.12-slim"
    """Container image; needs Python 3.11 or later as `python`."""
    build: BuildOptions | None = None
    """Builds the image from a Dockerfile, once, instead of taking `image`."""
    runtime: str | None = Field(default=None, min_length=1)
    """Runtime that the engine shall use, such as `runsc` (gVisor); the engine's own choice by default."""
    network: str = Field(default="none", min_length=1)
    """`none`, or the name of a network of the engine that the container joins."""
    memory_mb: int = Field(default=512, ge=32)
    """Memory limit of a container, MiB, swap included."""
    cpus: float = Field(default=1.0, gt=0)
    """CPU limit of a container, cores."""
    pids: int = Field(default=256, ge=16)
    """Processes and threads that a container may hold; a session in namespaces may hold half of them."""
    nofile: int = Field(default=1024, ge=64)
    """Files that one process of a container may hold open."""
    tmpfs_mb: int = Field(default=32, ge=1)
    """Size of /tmp and of /dev/shm, all that a container can write, MiB each; they count as memory."""
    output_bytes: int = Field(default=65536, ge=256)
    """Output of one tool call that is kept, bytes."""
    open_seconds: float = Field(default=30.0, gt=0)
    """Time allowed to start a box, and to open an episode in it."""
    pool: PoolOptions = PoolOptions()

    @property
    def level(self) -> Isolation:
        """The isolation that is asked for."""
        if self.isolation != "auto":
            return self.isolation
        return "container" if self.executes_code else "fork"

    @property
    def most_boxes(self) -> int:
        return self.pool.boxes or (16 if self.level == "container" else 2)

    @model_validator(mode="after")
    def _one_image(self) -> SandboxOptions:
        if self.build and "image" in self.model_fields_set:
            raise ValueError(
                "image and build exclude each other: leave out the one that is not meant"
            )
        return self

    @model_validator(mode="after")
    def _code_is_held(self) -> SandboxOptions:
        if self.executes_code and self.level not in FOR_CODE:
            raise ValueError(
                f"isolation: '{self.isolation}' does not hold code that a model wrote (executes_code). "
                f"Available: {' or '.join(FOR_CODE)}; leave it out for 'container'"
            )
        return self
