"""Options of the `sandbox:` block: backend, isolation of sessions, limits, and number of boxes."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from envgym.block import Block
from envgym.errors import did_you_mean
from envgym.sandbox import Isolation

FOR_CODE: tuple[Isolation, ...] = ("namespaces", "container")
"""Isolation levels that are safe enough for code written by a model."""
RISK = "the model's code runs as my user"
"""Words in the YAML that accept that risk."""
ACCEPT_RISK = f'sandbox.accept_risk="{RISK}"'


def backend_names() -> list[str]:
    """Return the names of the backends: the files of the folder `backends/`."""
    files = (Path(__file__).parent / "backends").glob("*.py")
    return sorted(file.stem for file in files if file.stem != "__init__")


class BuildOptions(Block):
    """Build context of an image."""

    context: str = "."
    """Folder of the files that the Dockerfile may copy, relative to the environment's YAML."""
    dockerfile: str = "Dockerfile"
    """Dockerfile, relative to the context."""


class RecycleOptions(Block):
    """Limits after which a box is replaced. A dirty or broken box is always replaced."""

    episodes: int = Field(default=1000, ge=1)
    """Maximum number of episodes of a box."""
    seconds: float = Field(default=3600.0, gt=0)
    """Maximum age of a box in seconds."""
    growth_mb: int = Field(default=256, ge=1)
    """Maximum growth of an idle box's memory in MiB."""


class PoolOptions(Block):
    """Number of boxes. A box that reached a limit gets no new session and is replaced."""

    boxes: int | None = Field(default=None, ge=1)
    """Maximum number of boxes. Default: 2, or 16 with isolation `container`."""
    sessions: int = Field(default=32, ge=1)
    """Maximum sessions per box; if all boxes are full, the next one starts. Always 1 with isolation
    `container`.
    """
    ready: int = Field(default=2, ge=0)
    """Number of fresh boxes kept ready for the next sessions, with isolation `container`."""
    creators: int = Field(default=2, ge=1)
    """Number of boxes started concurrently. More than the number of CPU cores has no benefit."""
    recycle: RecycleOptions = RecycleOptions()


class SandboxOptions(Block):
    """Isolation and limits of the processes that run tools."""

    backend: str = "auto"
    """Backend: docker, podman, bubblewrap, local, none, or `file.py:name` and `package.module:name`
    for another one. `auto` uses Docker (or podman) if an engine responds, otherwise bubblewrap if
    the isolation level requires it, otherwise a local process. `none` runs tools in this process.
    """
    isolation: Literal["auto"] | Isolation = "auto"
    """Isolation of two episodes: separate tables (`state`), processes (`fork`), namespaces
    (`namespaces`) or boxes (`container`). `auto` is `fork`, or `container` if tools execute code. A
    level that is not available is an error.
    """
    executes_code: bool = False
    """Tools execute code written by the model (a shell, Python). Requires isolation `namespaces` or
    `container`.
    """
    accept_risk: Literal["", "the model's code runs as my user"] = ""
    """The words `the model's code runs as my user` permit `executes_code` and hidden tests where
    the model's code cannot be kept from your files: backend `none`, or `local`.
    """
    files: tuple[str, ...] = ()
    """Further files that tools read, as glob patterns relative to the YAML: `data/*.csv`, `web`. A
    box gets the Python files that tools, seed, layout and MCP servers import, and these files.
    """
    image: str = "python:3.12-slim"
    """Container image. It must have Python 3.11 or later as `python`."""
    build: BuildOptions | None = None
    """Build the image from a Dockerfile, once, instead of using `image`."""
    runtime: str | None = Field(default=None, min_length=1)
    """Container runtime such as `runsc` (gVisor). Default: the engine's default runtime."""
    network: str = Field(default="none", min_length=1)
    """Network of the container: `none`, or the name of a network of the engine."""
    memory_mb: int = Field(default=512, ge=32)
    """Memory limit of a container in MiB, swap included."""
    cpus: float = Field(default=1.0, gt=0)
    """CPU limit of a container in cores."""
    max_processes: int = Field(default=256, ge=16)
    """Maximum processes and threads of a container. A session in namespaces gets half of them."""
    max_open_files: int = Field(default=1024, ge=64)
    """Maximum number of open files of one process."""
    tmpfs_mb: int = Field(default=32, ge=1)
    """Size of /tmp and of /dev/shm in MiB each, the only writable places of a container. They count
    as memory.
    """
    output_bytes: int = Field(default=65536, ge=256)
    """Maximum output of one tool call in bytes; the rest is cut."""
    open_timeout_seconds: float = Field(default=30.0, gt=0)
    """Time limit in seconds to start a box, and to open an episode in it."""
    pool: PoolOptions = PoolOptions()

    @property
    def level(self) -> Isolation:
        """Requested isolation level, with `auto` resolved."""
        if self.isolation != "auto":
            return self.isolation
        return "container" if self.executes_code else "fork"

    @property
    def needs_engine(self) -> bool:
        """Whether an option is set that only a container engine supports."""
        return self.build is not None or self.runtime is not None or self.network != "none"

    @property
    def most_boxes(self) -> int:
        return self.pool.boxes or (16 if self.level == "container" else 2)

    @field_validator("backend")
    @classmethod
    def _has_a_file(cls, name: str) -> str:
        known = ["auto", *backend_names()]
        if name not in known and ":" not in name:
            raise ValueError(
                f"is {name!r}{did_you_mean(name, known) or '.'} Available: {', '.join(known)}, "
                "or 'file.py:name' for your own"
            )
        return name

    @model_validator(mode="after")
    def _one_image(self) -> SandboxOptions:
        if self.build and "image" in self.model_fields_set:
            raise ValueError("image and build exclude each other: remove one of them")
        return self

    @model_validator(mode="after")
    def _code_is_held(self) -> SandboxOptions:
        if self.executes_code and self.level not in FOR_CODE and not self.accept_risk:
            raise ValueError(
                f"isolation: '{self.isolation}' is not safe for code written by a model "
                "(executes_code). "
                f"Available: {' or '.join(FOR_CODE)}; the default is 'container'"
            )
        return self
