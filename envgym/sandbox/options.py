"""How an app is to be isolated."""

from __future__ import annotations

from dataclasses import dataclass

from envgym.sandbox import Backend, Isolation


@dataclass(frozen=True, slots=True)
class SandboxOptions:
    """Which boxes an app gets; the `sandbox:` block of an environment has the same fields."""

    backend: Backend = "auto"
    """`auto` takes Docker where an engine answers, else a local process; `none` runs tools in this very process."""
    isolation: Isolation = "fork"
    """What separates two sessions of one box: their tables only (`state`), or a process each (`fork`)."""
    image: str = "python:3.12-slim"
    """Container image; needs Python 3.11 or later as `python`."""
    memory_mb: int = 512
    """Memory limit of a container, MiB, swap included."""
    cpus: float = 1.0
    """CPU limit of a container, cores."""
    pids: int = 256
    """Processes and threads that a container may hold."""
    tmpfs_mb: int = 32
    """Size of /tmp and of /dev/shm, all that a container can write, MiB each; they count as memory."""
    output_bytes: int = 65536
    """Output of one tool call that is kept, bytes."""
    executes_code: bool = False
    """Tools run code that the model wrote (a shell, an interpreter)."""
    open_seconds: float = 30.0
    """Time allowed to start a box and load the app."""
