"""Chooses and opens the sandbox that an environment asks for, or says why it cannot be had.

A level of isolation is given as it was asked for, or refused with the reason; it is never lowered silently. Backends are
imported when they are chosen: the Docker SDK takes a third of a second.
"""

from __future__ import annotations

from envgym.errors import PrerequisiteError
from envgym.sandbox import App, Backend, Isolation, Sandbox
from envgym.sandbox.options import SandboxOptions

__all__ = ["SandboxOptions", "open_sandbox"]

LEVELS: dict[Backend, tuple[Isolation, ...]] = {
    "docker": ("state", "fork", "namespaces", "container"),
    "podman": ("state", "fork", "namespaces", "container"),
    "bubblewrap": ("state", "fork", "container"),
    "local": ("state", "fork"),
    "none": ("state",),
}
"""What each backend can give, where the machine permits it (`envgym sandbox doctor` tries)."""
WHY_NOT: dict[tuple[Backend, Isolation], str] = {
    (
        "bubblewrap",
        "namespaces",
    ): "it covers parts of /proc, so that no session can have a /proc of its own",
    ("local", "namespaces"): "a local process sees the files and the network of its user",
    ("local", "container"): "a local process sees the files and the network of its user",
    ("none", "fork"): "without a box there is only one process",
    ("none", "namespaces"): "without a box there is only one process",
    ("none", "container"): "without a box there is only one process",
}


def open_sandbox(app: App, options: SandboxOptions | None = None) -> Sandbox:
    """The sandbox for an app; its `label` says which backend is in force and what it does not isolate.

    Boxes start when they are first needed. Raises: PrerequisiteError where the backend or the level cannot be had here.
    """
    options = options or SandboxOptions()
    if options.backend == "auto":
        return _auto(app, options)
    return _open(options.backend, app, options)


def _auto(app: App, options: SandboxOptions) -> Sandbox:
    """An engine where it can be had; the label of what is taken instead says why not."""
    try:
        return _open("docker", app, options)
    except PrerequisiteError as missing:
        if options.build or options.runtime or options.network != "none":
            raise  # what was asked for is an engine's alone, and is never silently left out
        reason = f"not docker: {str(missing).partition('. ')[0]}"
    instead: Backend = "local" if options.level in LEVELS["local"] else "bubblewrap"
    try:
        sandbox = _open(instead, app, options)
    except PrerequisiteError as missing:
        raise PrerequisiteError(
            f"isolation '{options.level}' cannot be had here ({reason}). {missing}"
        ) from None
    sandbox.label += f" ({reason})"
    return sandbox


def _open(backend: Backend, app: App, options: SandboxOptions) -> Sandbox:
    level = options.level
    if backend == "none" and options.isolation == "auto" and not options.executes_code:
        level = "state"
    if level not in LEVELS[backend]:
        raise PrerequisiteError(
            f"backend '{backend}' cannot give isolation '{level}': {WHY_NOT[backend, level]}. Take sandbox.backend="
            f"{' or '.join(name for name, levels in LEVELS.items() if level in levels)}, or sandbox.isolation="
            f"{' or '.join(LEVELS[backend])}"
        )
    if backend in ("docker", "podman"):
        from envgym.sandbox.backends.docker import DockerSandbox

        return DockerSandbox(app, options)
    if backend == "bubblewrap":
        from envgym.sandbox.backends.bubblewrap import BubblewrapSandbox

        return BubblewrapSandbox(app, options)
    if backend == "local":
        from envgym.sandbox.backends.local import LocalSandbox

        return LocalSandbox(app, options)
    from envgym.sandbox.backends.none import NoSandbox

    return NoSandbox(app, options)
