"""Print the JSON schema of an environment's YAML."""

from __future__ import annotations

import argparse

EXAMPLE = "envgym schema"


def add(parser: argparse.ArgumentParser) -> None:
    """Add no arguments."""


def run(arguments: argparse.Namespace) -> None:
    """Print the schema, with the trainer's block if the trainer is installed."""
    from envgym.spec.environment import json_schema
    from envgym.text import to_json

    print(to_json(json_schema(), indent=2))
