"""Commands of the trainer: `train`, `bench`, `doctor`, `explain`, `study`, `model`.

Parsing the arguments does not import torch.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def train(commands: Any) -> None:
    """Add `envgym train` (entry-point group `envgym.commands`)."""
    from envgym.commands import add_command

    parser = add_command(
        commands,
        "train",
        _train,
        summary="Train a small open model on an environment with GRPO and LoRA.",
        example="envgym train envs/crm.yaml train.steps=40",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("runs"), help="folder of the runs (default: runs)"
    )
    parser.add_argument(
        "--name", help="name of this run's folder (default: the environment's name)"
    )
    parser.add_argument(
        "--resume",
        type=Path,
        metavar="RUN",
        help="resume a stopped run, such as runs/crm",
    )


def _train(arguments: argparse.Namespace) -> int:
    _need_torch()
    from envgym_trainer.training.launch import start

    return start(
        arguments.env,
        arguments.settings,
        out=arguments.out,
        name=arguments.name,
        resume=arguments.resume,
    )


def study(commands: Any) -> None:
    """Add `envgym study`."""
    from envgym.commands import add_command

    parser = add_command(
        commands,
        "study",
        _study,
        summary="Train in several ways over several seeds and compare, with intervals.",
        example="envgym study baselines envs/guess.yaml --seeds 3",
        env=False,
    )
    parser.add_argument(
        "what",
        choices=["baselines", "algorithms", "arms"],
        help="baselines: base, SFT, GRPO, SFT+GRPO; algorithms: each after one SFT; "
        "arms: your own, given by --arm",
    )
    parser.add_argument("env", help="a YAML file, or the name or id of an environment")
    parser.add_argument(
        "settings",
        nargs="*",
        metavar="key=value",
        help="settings of all runs, such as train.steps=20",
    )
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds, from 0 (default: 3)")
    parser.add_argument(
        "--names",
        default="",
        metavar="A,B",
        help="algorithms, such as grpo,gspo (default: all)",
    )
    parser.add_argument(
        "--arm",
        action="append",
        default=[],
        metavar="'NAME: key=value ...'",
        help="an arm with its settings, such as 'adaptive: train.reward_weights.mode=spread'; "
        "a name alone uses the default settings",
    )
    parser.add_argument(
        "--after-sft",
        action="store_true",
        help="start all arms from one warm start, which is also an arm",
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="folder of the runs (default: runs/study-ENV); finished runs in it are kept",
    )


def _study(arguments: argparse.Namespace) -> int:
    _need_torch()
    from envgym_trainer.commands.study import start

    return start(arguments)


def bench(commands: Any) -> None:
    """Add `envgym bench`."""
    from envgym.commands import add_command

    parser = add_command(
        commands,
        "bench",
        _bench,
        summary="Measure the cost of a training run on this machine, and recommend settings.",
        example="envgym bench envs/crm.yaml train.group_size=16",
    )
    parser.add_argument("--steps", type=int, default=2, help="GRPO steps to measure (default: 2)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def _bench(arguments: argparse.Namespace) -> int:
    _need_torch()
    from envgym_trainer.commands.bench import start

    return start(arguments)


def doctor(commands: Any) -> None:
    """Add `envgym doctor`."""
    from envgym.commands import add_command

    parser = add_command(
        commands,
        "doctor",
        _doctor,
        summary="Check whether a training run can learn, before starting it.",
        example="envgym doctor envs/crm.yaml train.warm_start.episodes=0",
    )
    parser.add_argument(
        "--fast", action="store_true", help="run only the short checks that each training runs"
    )
    parser.add_argument(
        "--prompt",
        action="store_true",
        help="print the first prompt too, exactly as the model reads it",
    )
    parser.add_argument("--json", action="store_true", help="print the results as JSON")


def _doctor(arguments: argparse.Namespace) -> int:
    _need_torch()
    from rich.console import Console

    from envgym.evaluation.checks import print_checks
    from envgym_trainer.preflight import open_preflight, run_preflight
    from envgym_trainer.preflight.conversation import first_prompt
    from envgym_trainer.training.launch import resolve

    spec, config, _ = resolve(arguments.env, arguments.settings)
    console = Console(stderr=True)
    with (
        console.status("opening") as status,
        open_preflight(spec, config, is_full=not arguments.fast, notify=console.print) as subject,
    ):
        results = run_preflight(subject, progress=status.update)
        prompt = first_prompt(subject) if arguments.prompt else ""
    if prompt and not arguments.json:
        print(prompt)
    print_checks(results, as_json=arguments.json)
    return 0 if all(result.passed for result in results) else 1


def explain(commands: Any) -> None:
    """Add `envgym explain`."""
    from envgym.commands import add_command

    parser = add_command(
        commands,
        "explain",
        _explain,
        summary="Show the parts of an episode's reward and advantage.",
        example="envgym explain runs/crm 12:3",
        env=False,
    )
    parser.add_argument(
        "folder", type=Path, metavar="RUN", help="folder of a run, such as runs/crm"
    )
    parser.add_argument(
        "episode",
        nargs="?",
        metavar="EPISODE",
        help="such as 12:3, the third episode of step 12 (default: list the last step)",
    )
    parser.add_argument("--json", action="store_true", help="print exact numbers as JSON")


def _explain(arguments: argparse.Namespace) -> None:
    from envgym_trainer.commands.explain import print_episode, print_overview
    from envgym_trainer.run.explain import explain, overview
    from envgym_trainer.run.folder import RunFolder

    folder = RunFolder.open(arguments.folder)
    if arguments.episode:
        print_episode(explain(folder, arguments.episode), as_json=arguments.json)
    else:
        print_overview(overview(folder), as_json=arguments.json)


def model(commands: Any) -> None:
    """Add `envgym model`."""
    from envgym.commands import add_command

    parser = add_command(
        commands,
        "model",
        _model,
        summary="Download a model into the cache and print its path.",
        example="envgym model smollm2-135m-instruct",
        env=False,
    )
    parser.add_argument(
        "name",
        help="a built-in name (smollm2-135m-instruct, tiny), a Hugging Face id, or a directory",
    )


def _model(arguments: argparse.Namespace) -> None:
    from envgym_trainer.model.load import resolve

    print(resolve(arguments.name, say=print).path)


def _need_torch() -> None:
    from envgym.errors import PrerequisiteError

    try:
        import torch  # noqa: F401 - checked once, before any other import
    except ImportError:
        raise PrerequisiteError(
            "training needs torch and related packages: pip install 'envgym[train]'"
        ) from None
