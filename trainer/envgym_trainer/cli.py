"""The trainer's commands: `envgym train`. Parsing the command line loads neither torch nor transformers."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def train(commands: Any) -> None:
    """Adds `envgym train` (entry-point group `envgym.commands`)."""
    from envgym.cli import add_command

    parser = add_command(
        commands, "train", _train, summary="Train a small open model on an environment with GRPO and LoRA.",
        example="envgym train envs/crm.yaml train.steps=40",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path("runs"), help="folder of the runs (default: runs)")
    parser.add_argument("--name", help="name of this run's folder (default: the environment's name)")
    parser.add_argument("--resume", type=Path, metavar="RUN", help="go on with a run that was stopped, such as runs/crm")


def _train(arguments: argparse.Namespace) -> int:
    from envgym.errors import PrerequisiteError

    try:
        import torch  # noqa: F401 - said here, once, rather than deep inside
    except ImportError:
        raise PrerequisiteError("training needs torch and what goes with it: pip install 'envgym[train]'") from None
    from envgym_trainer.run import start

    return start(arguments.env, arguments.settings, out=arguments.out, name=arguments.name, resume=arguments.resume)


def model(commands: Any) -> None:
    """Adds `envgym model`."""
    from envgym.cli import add_command

    parser = add_command(
        commands, "model", _model, summary="Fetch a model into the cache, once, and print where it lies.",
        example="envgym model smollm2-135m-instruct", env=False,
    )  # fmt: skip
    parser.add_argument("name", help="a built-in name (smollm2-135m-instruct, tiny), a Hugging Face id, or a directory")


def _model(arguments: argparse.Namespace) -> None:
    from envgym_trainer.models import resolve

    print(resolve(arguments.name, say=print).path)
