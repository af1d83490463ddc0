"""List the bundled environments."""

from __future__ import annotations

import argparse

EXAMPLE = "envgym list"


def add(parser: argparse.ArgumentParser) -> None:
    """Add no arguments."""


def run(arguments: argparse.Namespace) -> None:
    """Print name, id and description of each environment."""
    from envgym.spec.catalog import bundled_envs
    from envgym.spec.environment import load_spec
    from envgym.text.terminal import print_line

    for name, path in bundled_envs().items():
        spec = load_spec(path)
        print_line(f"{name:12} {spec.id:22} {spec.description.strip()}")
