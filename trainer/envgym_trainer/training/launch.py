"""`envgym train`: resolve settings, create or open the run folder, train, print a summary."""

from __future__ import annotations

import shlex
import shutil
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from rich.console import Console

from envgym import terminal
from envgym.errors import TooManyFailures, UsageError, WorldFailure
from envgym.evaluation.report import Outcome, outcomes_table
from envgym.spec.catalog import find_env
from envgym.spec.environment import EnvSpec, load_spec
from envgym_trainer.config import TrainConfig
from envgym_trainer.run.folder import RunFolder

if TYPE_CHECKING:
    from envgym_trainer.training.loop import Trainer


def start(
    env: str, settings: Iterable[str], *, out: Path, name: str | None, resume: Path | None
) -> int:
    """Train or resume a run from the command line.

    Returns:
        The exit code.
    """
    from envgym_trainer.learner.distributed import refuse_launcher

    refuse_launcher()
    settings = list(settings)
    console = terminal.Console()
    spec, config, profile = resolve(env, settings)
    folder = open_folder(spec, out=out, name=name or find_env(env).stem, resume=resume)
    about = f" with {config.model.name} · profile {profile} · run folder {folder.path}"
    console.print(terminal.heading(spec.id, about), soft_wrap=True)
    started = time.monotonic()
    try:
        outcomes = run_training(spec, config, folder, console=console, resume=resume is not None)
    except (KeyboardInterrupt, TooManyFailures, WorldFailure) as stop:
        if not isinstance(stop, KeyboardInterrupt):
            console.print(f"\n{stop}", highlight=False, markup=False, soft_wrap=True)
        again = " ".join(["envgym train", env, *settings, "--resume", str(folder.path)])
        # A server that does not answer stops a run in the middle of a step.
        saved = "stopped" if isinstance(stop, WorldFailure) else "stopped and saved"
        console.print(f"\n{saved}. To continue:  {again}", highlight=False, soft_wrap=True)
        return 130 if isinstance(stop, KeyboardInterrupt) else 1
    seconds = time.monotonic() - started
    print_summary(env, settings, folder, config, outcomes, console, seconds=seconds)
    return 0


def resolve(env: str, settings: Iterable[str]) -> tuple[EnvSpec, TrainConfig, str]:
    """Return the environment, its training settings and the profile of this device.

    The profile is `cpu` or `gpu`.
    """
    from envgym_trainer.model.load import pick_device
    from envgym_trainer.rollout.plans import find_plan

    settings = list(settings)
    asked = TrainConfig.of(load_spec(env, settings).train).model.device
    profile = "gpu" if pick_device(asked).startswith("cuda") else "cpu"
    spec = load_spec(env, settings, profile=profile)
    config = TrainConfig.of(spec.train).checked()
    find_plan(config.plan.name, spec)  # An unknown plan is an error before the model is loaded.
    return spec, config, profile


def run_training(
    spec: EnvSpec, config: TrainConfig, folder: RunFolder, *, console: Console, resume: bool = False
) -> dict[str, Outcome]:
    """Run one training run in `folder`.

    Returns:
        Evaluations by name.

    Raises:
        KeyboardInterrupt: If the user stops the run. All progress is saved.
        TooManyFailures: If too many episodes are void. All progress is saved.
        PreflightFailed: If the run cannot learn. The folder is removed, because no step was
            trained.
    """
    import torch

    from envgym_trainer.model.load import pick_device
    from envgym_trainer.run.display import Display
    from envgym_trainer.run.logger import RunLogger
    from envgym_trainer.run.provenance import run_facts
    from envgym_trainer.training.export import export_adapter
    from envgym_trainer.training.loop import Trainer

    device = pick_device(config.model.device)
    place = (
        f"cpu ({torch.get_num_threads()} threads)"
        if device == "cpu"
        else torch.cuda.get_device_name(device)
    )
    if not resume:
        folder.write_config(resolved_yaml(spec, config))
        folder.write_facts(
            run_facts(
                seeds={"train": config.seed}, device=place, env=str(spec.path), env_id=spec.id
            )
        )
    console.print(f"device: {place}")
    with (
        RunLogger(folder) as logger,
        Display({"warmup": 0, "grpo": config.steps}, console=console) as display,
    ):
        logger.config(resolved_yaml(spec, config))
        trainer = Trainer(spec, config, folder, logger, display)
        try:
            display.plan["warmup"] = trainer.schedule.warmup_steps
            if sandbox := trainer.world.sandbox:
                display.note(f"sandbox: {sandbox.label}")
            if resume:
                trainer.resume()
            else:
                _check_before_training(trainer)
            outcomes = trainer.run()
            export_adapter(trainer, outcomes)
            return outcomes
        finally:
            trainer.close()


def _check_before_training(trainer: Trainer) -> None:
    from envgym_trainer.preflight import PreflightContext, PreflightFailed, before_training

    subject = PreflightContext(
        trainer.spec,
        trainer.config,
        trainer.world,
        trainer.chat,
        trainer.engine,
        trainer.model,
        is_full=trainer.config.checks.preflight == "full",
    )
    try:
        before_training(subject, trainer.folder, notify=trainer.display.note)
    except PreflightFailed:
        shutil.rmtree(trainer.folder.path)
        raise


def resolved_yaml(spec: EnvSpec, config: TrainConfig) -> str:
    """Return all settings in force as YAML."""
    plain: dict[str, Any] = spec.model_dump(mode="json", by_alias=True, exclude={"train"})
    plain["train"] = config.model_dump(mode="json", by_alias=True, exclude={"profiles"})
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=120)


def open_folder(spec: EnvSpec, *, out: Path, name: str, resume: Path | None) -> RunFolder:
    """Create a run folder, or open the one to resume.

    Raises:
        UsageError: If `resume` is not a run folder of this environment.
    """
    if resume is None:
        return RunFolder.create(out, name)
    folder = RunFolder.open(resume)
    _require_same_env(folder, spec)
    return folder


def _require_same_env(folder: RunFolder, spec: EnvSpec) -> None:
    before = yaml.safe_load(folder.config_file.read_text(encoding="utf-8")).get("id")
    if before != spec.id:
        raise UsageError(
            f"{folder.path} is a run of '{before}', not of '{spec.id}'. Resume it with '{before}'."
        )


def print_summary(
    env: str,
    settings: Sequence[str],
    folder: RunFolder,
    config: TrainConfig,
    outcomes: dict[str, Outcome],
    console: Console,
    *,
    seconds: float,
) -> None:
    """Print the table of evaluations, the path of the adapter and the next commands."""
    from envgym_trainer.run.model_card import serve_command

    console.print()
    console.print(outcomes_table(list(outcomes.values())))
    if config.output.adapter == "none":
        console.print(
            f"{seconds / 60:.1f} minutes. No adapter was written (train.output.adapter=none). "
            f"The weights are in {folder.path}/checkpoints"
        )
        return
    console.print(
        f"{seconds / 60:.1f} minutes. The adapter is in {folder.adapter}", highlight=False
    )
    console.print("\nNext:")
    console.print(f"  tensorboard --logdir {folder.path.parent}", highlight=False)
    command = eval_command(env, settings, folder, config)
    console.print(f"  {command}", highlight=False, soft_wrap=True)
    serve = serve_command(
        base_id(folder), folder.path.name, str(folder.adapter), rank=config.lora.rank
    )
    console.print(f"  {serve}", highlight=False, soft_wrap=True)


def eval_command(env: str, settings: Sequence[str], folder: RunFolder, config: TrainConfig) -> str:
    """Return the command that repeats the final evaluation.

    The adapter's manifest has the sampling settings. The settings of the environment, the tasks and
    the seed are arguments.
    """
    words = ["envgym", "eval", env]
    words += [setting for setting in settings if not setting.startswith("train.")]
    words += ["--policy", f"adapter:{folder.adapter}"]
    if config.evaluation.split != "test":
        words += ["--split", config.evaluation.split]
    if config.tasks.levels:
        words += ["--levels", ",".join(config.tasks.levels)]
    if config.evaluation.tasks is not None:
        words += ["--tasks", str(config.evaluation.tasks)]
    if config.seed:
        words += ["--seed", str(config.seed)]
    return shlex.join(words)


def base_id(folder: RunFolder) -> str:
    import json

    return json.loads((folder.adapter / "adapter_config.json").read_text(encoding="utf-8"))[
        "base_model_name_or_path"
    ]
