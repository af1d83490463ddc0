"""Download a model into the cache and print its path."""

from __future__ import annotations

import argparse

EXAMPLE = "envgym fetch smollm2-135m-instruct"


def add(parser: argparse.ArgumentParser) -> None:
    """Add the model."""
    parser.add_argument(
        "name",
        help="a built-in name (smollm2-135m-instruct, tiny), a Hugging Face id, or a directory",
    )


def run(arguments: argparse.Namespace) -> None:
    """Print the folder of the model."""
    from envgym_trainer.model.load import resolve

    print(resolve(arguments.name, notify=print).path)
