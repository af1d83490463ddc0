"""Open the sandbox that an environment asks for.

An isolation level is provided as requested or refused with the reason; it is never lowered
silently. Backends are imported when they are used: importing the Docker SDK takes a third of a
second.
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
"""Isolation levels of each backend, if the machine permits them (see `envgym sandbox doctor`)."""
WHY_NOT: dict[tuple[Backend, Isolation], str] = {
    (
        "bubblewrap",
        "namespaces",
    ): "it covers parts of /proc, so a session cannot mount a private /proc",
    ("local", "namespaces"): "a local process sees the files and the network of its user",
    ("local", "container"): "a local process sees the files and the network of its user",
    ("none", "fork"): "without a box there is only one process",
    ("none", "namespaces"): "without a box there is only one process",
    ("none", "container"): "without a box there is only one process",
}


def open_sandbox(app: App, options: SandboxOptions | None = None) -> Sandbox:
    """Open the sandbox for an app. Boxes start when they are first used.

    Returns:
        The sandbox; its `label` names the backend and its isolation.

    Raises:
        PrerequisiteError: If the backend or the isolation level is not available here.
    """
    options = options or SandboxOptions()
    if options.backend == "auto":
        return _auto(app, options)
    return _open(options.backend, app, options)


def _auto(app: App, options: SandboxOptions) -> Sandbox:
    """Open a container engine, or a fallback with the reason in its label."""
    try:
        return _open("docker", app, options)
    except PrerequisiteError as missing:
        if options.build or options.runtime or options.network != "none":
            raise  # Only an engine supports these options; never ignore them silently.
        reason = f"not docker: {str(missing).partition('. ')[0]}"
    instead: Backend = "local" if options.level in LEVELS["local"] else "bubblewrap"
    try:
        sandbox = _open(instead, app, options)
    except PrerequisiteError as missing:
        raise PrerequisiteError(
            f"isolation '{options.level}' is not available here ({reason}). {missing}"
        ) from None
    sandbox.label += f" ({reason})"
    return sandbox


def _open(backend: Backend, app: App, options: SandboxOptions) -> Sandbox:
    level = options.level
    if backend == "none" and options.isolation == "auto" and not options.executes_code:
        level = "state"
    if level not in LEVELS[backend]:
        raise PrerequisiteError(
            f"backend '{backend}' cannot provide isolation '{level}': {WHY_NOT[backend, level]}. "
            "Use sandbox.backend="
            f"{' or '.join(name for name, levels in LEVELS.items() if level in levels)}, "
            "or sandbox.isolation="
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
    from envgym.sandbox.backends.none import InProcessSandbox

    return InProcessSandbox(app, options)
