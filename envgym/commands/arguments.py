"""Arguments that several commands share."""

from __future__ import annotations

import argparse
import math
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from envgym.spec.environment import EnvSpec


def add_env(parser: argparse.ArgumentParser) -> None:
    """Add the environment and the `key=value` settings that override its YAML."""
    parser.add_argument(
        "env", help="a YAML file, or the name or id of an environment (see `envgym list`)"
    )
    add_settings(parser, "settings that override the YAML, such as sandbox.backend=local")


def load_env(arguments: argparse.Namespace) -> EnvSpec:
    """Load the environment of `add_env`, and print which variables it uses, and for what.

    Raises:
        SpecError: If the YAML or a setting is wrong.
    """
    from envgym.spec.environment import load_spec

    spec = load_spec(arguments.env, arguments.settings)
    print_credentials(spec)
    return spec


def print_credentials(spec: EnvSpec) -> None:
    """Print which variables an environment uses, and for what."""
    from envgym.spec.late_values import credential_lines

    for line in credential_lines(spec):
        print(line, file=sys.stderr)


def add_settings(parser: argparse.ArgumentParser, help: str) -> None:
    """Add the `key=value` settings of a command. They may stand anywhere on its line."""
    parser.add_argument("settings", nargs="*", metavar="key=value", help=help)


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add `--json`."""
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def add_split(parser: argparse.ArgumentParser, default: str) -> None:
    """Add `--split`, from which tasks are taken."""
    parser.add_argument(
        "--split",
        default=default,
        choices=["train", "val", "test"],
        help=f"split of the tasks (default: {default})",
    )


def add_seed(parser: argparse.ArgumentParser) -> None:
    """Add `--seed`."""
    parser.add_argument(
        "--seed", type=non_negative, default=0, help="seed of the episodes, 0 or more (default: 0)"
    )


def positive(text: str) -> int:
    """Return the text as an integer of at least 1, for `type=` of an argument."""
    return _integer(text, 1)


def non_negative(text: str) -> int:
    """Return the text as an integer of at least 0, for `type=` of an argument."""
    return _integer(text, 0)


def temperature(text: str) -> float:
    """Return the text as a finite number of at least 0, for `type=` of an argument."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise argparse.ArgumentTypeError(f"'{text}' is not a finite number of at least 0")
    return value


def _integer(text: str, least: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 18) or int(text) < least:
        raise argparse.ArgumentTypeError(f"'{text}' is not an integer of at least {least}")
    return int(text)
