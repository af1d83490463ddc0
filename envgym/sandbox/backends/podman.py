"""Backend `podman`: boxes are containers of podman."""

from __future__ import annotations

from envgym.sandbox import App, Isolation
from envgym.sandbox.containers.engine import engine_facts
from envgym.sandbox.containers.sandbox import LEVELS, ContainerSandbox
from envgym.sandbox.options import SandboxOptions

WHY_NOT: dict[Isolation, str] = {}
__all__ = ["LEVELS", "WHY_NOT", "open", "probe"]


def probe() -> dict[str, object]:
    """Return facts about the engine. Raises PrerequisiteError if podman does not respond."""
    return engine_facts("podman")


def open(app: App, options: SandboxOptions) -> ContainerSandbox:
    """Return a sandbox of containers."""
    return ContainerSandbox(app, options, "podman")
