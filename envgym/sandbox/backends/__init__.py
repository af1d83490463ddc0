"""Open the sandbox that an environment asks for.

This folder is the registry: a file `NAME.py` is the backend that `sandbox.backend: NAME` selects.
`file.py:name` and `package.module:name` name any other object with the members of `Backend`. An
isolation level is provided as requested or refused with the reason; it is never lowered silently.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FunctionType, SimpleNamespace
from typing import Any, Protocol

from envgym.errors import PrerequisiteError, SpecError
from envgym.sandbox import App, Isolation, Sandbox
from envgym.sandbox.options import ACCEPT_RISK, SandboxOptions, backend_names

__all__ = ["Backend", "SandboxOptions", "find_backend", "open_sandbox"]

AUTO = ("docker", "local", "bubblewrap")
"""Backends that `auto` tries in this order, if they have the requested isolation level."""


class Backend(Protocol):
    """Contract of a backend: of each file in this folder, and of a user's file or object."""

    @property
    def LEVELS(self) -> Sequence[Isolation]:
        """Isolation levels that it provides if the machine permits them."""
        ...

    @property
    def WHY_NOT(self) -> Mapping[Isolation, str]:
        """Reason for each level that it can never provide."""
        ...

    def probe(self) -> Mapping[str, Any] | None:
        """Return facts about this machine for `envgym sandbox doctor`, such as a version, or None.

        Raises:
            PrerequisiteError: If something is missing; the message ends with the remedy.
        """
        ...

    def open(self, app: App, options: SandboxOptions) -> Sandbox:
        """Open a sandbox. Boxes start when they are first used.

        Raises:
            PrerequisiteError: If something is missing; the message ends with the remedy.
            SpecError: If the app cannot be loaded.
        """
        ...


MEMBERS = ("LEVELS", "WHY_NOT", "probe", "open")
"""Members of `Backend`."""


def find_backend(name: str, root: Path = Path()) -> Backend:
    """Return a backend.

    Args:
        name: Name of a file of this folder, or `file.py:name` or `package.module:name`: the
            function `open` of a file like those of this folder, or an object or a class with the
            members of `Backend`. A class is called without arguments.
        root: Folder to which the path of a file is relative.

    Raises:
        SpecError: If there is no such backend, or it lacks a member of `Backend`.
    """
    backend: Any
    if name in backend_names():
        backend = importlib.import_module(f"{__name__}.{name}")
        return backend
    from envgym.modules import load_module

    module, inside = load_module(name, root)
    found = getattr(module, inside)
    if isinstance(found, FunctionType):
        found = SimpleNamespace(**{**vars(module), "open": found})
    backend = found() if isinstance(found, type) else found
    if missing := [each for each in MEMBERS if not hasattr(backend, each)]:
        raise SpecError(
            f"sandbox.backend: '{name}' has no '{missing[0]}'. A backend needs "
            f"{', '.join(MEMBERS)}; see envgym.sandbox.backends.Backend"
        )
    return backend


def open_sandbox(app: App, options: SandboxOptions | None = None) -> Sandbox:
    """Open the sandbox for an app. Boxes start when they are first used.

    Args:
        app: Tools and state. A backend `file.py:name` is relative to its root.
        options: Options of the sandbox. None means the defaults.

    Returns:
        The sandbox; its `label` names the backend and its isolation.

    Raises:
        PrerequisiteError: If the backend or the isolation level is not available here.
        SpecError: If there is no such backend, or the app cannot be loaded.
    """
    options = options or SandboxOptions()
    if options.backend == "auto":
        return _open_first(AUTO, app, options)
    return _open(options.backend, app, options)


def _open_first(names: Sequence[str], app: App, options: SandboxOptions) -> Sandbox:
    """Open the first backend that is available, with the reasons for the others in its label."""
    refusals: list[PrerequisiteError] = []
    reasons: list[str] = []
    for name in names:
        if options.level not in find_backend(name).LEVELS:
            continue
        try:
            sandbox = _open(name, app, options)
        except PrerequisiteError as missing:
            if options.needs_engine:  # Never ignore an option silently.
                raise
            refusals.append(missing)
            reasons.append(f"not {name}: {str(missing).partition('. ')[0]}")
            continue
        if reasons:
            sandbox.label += f" ({'; '.join(reasons)})"
        return sandbox
    others = f" ({'; '.join(reasons[:-1])})" if reasons[:-1] else ""
    raise PrerequisiteError(
        f"isolation '{options.level}' is not available here{others}. {refusals[-1]}"
    )


def _open(name: str, app: App, options: SandboxOptions) -> Sandbox:
    backend = find_backend(name, app.root)
    if options.level in backend.LEVELS:
        return backend.open(app, options)
    if options.executes_code and options.accept_risk:
        sandbox = backend.open(app, options.model_copy(update={"isolation": backend.LEVELS[-1]}))
        sandbox.label += f"; accepted: {options.accept_risk}"
        return sandbox
    if options.isolation != "auto" or options.executes_code:
        raise PrerequisiteError(_refusal(name, backend, options))
    return backend.open(app, options.model_copy(update={"isolation": backend.LEVELS[0]}))


def _refusal(name: str, backend: Backend, options: SandboxOptions) -> str:
    level = options.level
    others = [each for each in backend_names() if level in find_backend(each).LEVELS]
    why = backend.WHY_NOT.get(level, "it does not declare this level")
    if options.executes_code:
        return (
            f"backend '{name}' cannot hold code written by a model (sandbox.executes_code): {why}. "
            f"Use sandbox.backend={' or '.join(others)}, or accept the risk in words: {ACCEPT_RISK}"
        )
    return (
        f"backend '{name}' cannot provide isolation '{level}': {why}. "
        f"Use sandbox.backend={' or '.join(others)}, "
        f"or sandbox.isolation={' or '.join(backend.LEVELS)}"
    )
