"""Algorithm presets: one YAML file each, named after the preset, with settings of
`train.algorithm`.

To add a preset, add a file, or name a file of your own: `algorithm: my_preset.yaml`. A setting
written beside `preset:` takes precedence over the file's.
"""

from __future__ import annotations

import functools
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from envgym.errors import did_you_mean


@functools.cache
def preset_names() -> tuple[str, ...]:
    """Return the names of all presets that are shipped, `default` first."""
    found = sorted(
        entry.name.removesuffix(".yaml")
        for entry in files(__name__).iterdir()
        if entry.name.endswith(".yaml")
    )
    return ("default", *(name for name in found if name != "default"))


def load_preset(name: str) -> dict[str, Any]:
    """Return the settings of a preset.

    Args:
        name: Name of a shipped preset, or the path of a YAML file.

    Raises:
        ValueError: If there is no such preset, or the file is not a mapping of settings.
    """
    if is_file(name):
        return _read(Path(name))
    if name not in preset_names():
        hint = did_you_mean(name, preset_names()) or "."
        raise ValueError(
            f"preset '{name}' is unknown{hint} Available: {', '.join(preset_names())}, or "
            "file.yaml for your own"
        )
    text = (files(__name__) / f"{name}.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text) or {}


def is_file(name: str) -> bool:
    """Return whether a preset's name is the path of a file."""
    return name.endswith((".yaml", ".yml"))


def _read(path: Path) -> dict[str, Any]:
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise ValueError(f"preset '{path}': {error.strerror or error}") from None
    except yaml.YAMLError as error:
        raise ValueError(f"preset '{path}' is not valid YAML: {error}") from None
    if not isinstance(settings, dict) or "preset" in settings:
        raise ValueError(
            f"preset '{path}' must be a mapping of settings of train.algorithm without `preset`"
        )
    return settings
