"""Packages that the trainer's commands need."""

from __future__ import annotations

from envgym.errors import PrerequisiteError


def need_torch() -> None:
    """Import torch. Raises PrerequisiteError if it is not installed."""
    try:
        import torch  # noqa: F401 - checked once, before any other import
    except ImportError:
        raise PrerequisiteError(
            "training needs torch and related packages: pip install 'envgym[train]'"
        ) from None
