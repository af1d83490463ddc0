"""Algorithm presets: one YAML file each, named after the preset, with settings of `train.algorithm`.

To add a preset, add a file. A setting written beside `preset:` takes precedence over the file's.
"""

from __future__ import annotations

import functools
from importlib.resources import files
from typing import Any

import yaml

from envgym.errors import did_you_mean


@functools.cache
def preset_names() -> tuple[str, ...]:
    """Return the names of all presets, `default` first."""
    found = sorted(
        entry.name.removesuffix(".yaml")
        for entry in files(__name__).iterdir()
        if entry.name.endswith(".yaml")
    )
    return ("default", *(name for name in found if name != "default"))


def load_preset(name: str) -> dict[str, Any]:
    """Return the settings of a preset.

    Raises:
        ValueError: If there is no preset of this name.
    """
    if name not in preset_names():
        hint = did_you_mean(name, preset_names()) or "."
        raise ValueError(f"preset '{name}' is unknown{hint} Available: {', '.join(preset_names())}")
    text = (files(__name__) / f"{name}.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text) or {}
