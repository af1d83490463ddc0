"""Chooses and opens the sandbox that an environment asks for."""

from __future__ import annotations

from dataclasses import dataclass

from envgym.sandbox import App, Backend, Isolation, Sandbox


@dataclass(frozen=True, slots=True)
class SandboxOptions:
    """How an app is to be isolated; the `sandbox:` block of an environment has the same fields."""

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
    """Size of /tmp, a container's only writable folder, MiB; it counts as memory."""
    output_bytes: int = 65536
    """Output of one tool call that is kept, bytes."""
    open_seconds: float = 30.0
    """Time allowed to start a box and load the app."""


def open_sandbox(app: App, options: SandboxOptions | None = None) -> Sandbox:
    """The sandbox for an app; its `label` says which backend is in force and what it does not isolate.

    Boxes start when they are first needed. Raises: PrerequisiteError where Docker is asked for and there is no engine or image.
    """
    options = options or SandboxOptions()
    backend = _available() if options.backend == "auto" else options.backend
    if backend == "none":
        from envgym.sandbox.inprocess import NoSandbox

        return NoSandbox(app, output_bytes=options.output_bytes)
    from envgym.sandbox.local import LocalSandbox

    return LocalSandbox(app, isolation=options.isolation, output_bytes=options.output_bytes, open_seconds=options.open_seconds)


def _available() -> Backend:
    return "local"
