"""Chooses and opens the sandbox that an environment asks for.

Backends are imported when they are chosen: the Docker SDK takes a third of a second.
"""

from __future__ import annotations

from envgym.errors import PrerequisiteError, UsageError, did_you_mean
from envgym.sandbox import App, Sandbox
from envgym.sandbox.options import SandboxOptions

__all__ = ["SandboxOptions", "open_sandbox"]


def open_sandbox(app: App, options: SandboxOptions | None = None) -> Sandbox:
    """The sandbox for an app; its `label` says which backend is in force and what it does not isolate.

    Boxes start when they are first needed. Raises: PrerequisiteError where Docker is asked for and there is no engine or image.
    """
    options = options or SandboxOptions()
    known = {"auto": _auto, "docker": _docker, "podman": _docker, "local": _local, "none": _none}
    if options.backend not in known:
        hint = did_you_mean(options.backend, known)
        raise UsageError(f"sandbox.backend is '{options.backend}'{hint} Available: {', '.join(known)}")
    return known[options.backend](app, options)


def _auto(app: App, options: SandboxOptions) -> Sandbox:
    """An engine where it can be had; the label of what is taken instead says why not."""
    if options.build or options.runtime or options.network != "none":
        return _docker(app, options)  # what was asked for is an engine's alone, and is never silently left out
    try:
        return _docker(app, options)
    except PrerequisiteError as missing:
        sandbox = _local(app, options)
        sandbox.label += f" (not docker: {str(missing).partition('. ')[0]})"
        return sandbox


def _docker(app: App, options: SandboxOptions) -> Sandbox:
    from envgym.sandbox.docker import DockerSandbox

    return DockerSandbox(app, options)


def _local(app: App, options: SandboxOptions) -> Sandbox:
    from envgym.sandbox.local import LocalSandbox

    return LocalSandbox(app, options)


def _none(app: App, options: SandboxOptions) -> Sandbox:
    from envgym.sandbox.inprocess import NoSandbox

    return NoSandbox(app, options)
