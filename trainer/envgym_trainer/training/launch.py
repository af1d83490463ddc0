"""`envgym train`: resolve settings, create or open the run folder, train, print a summary."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from envgym.errors import TooManyFailures, UsageError
from envgym.evaluation.report import Outcome, outcomes_table
from envgym.spec.catalog import find_env
from envgym.spec.environment import EnvSpec, load_spec
from envgym_trainer.config import TrainConfig
from envgym_trainer.run.folder import RunFolder


def start(
    env: str, settings: Iterable[str], *, out: Path, name: str | None, resume: Path | None
) -> int:
    """Train or resume a run from the command line.

    Returns:
        The exit code.
    """
    from envgym_trainer.learner.distributed import refuse_launcher
    from envgym_trainer.preflight import PreflightFailed

    refuse_launcher()
    console = Console()
    spec, config, profile = resolve(env, settings)
    if resume:
        folder = RunFolder.open(resume)
        _same_settings(folder, spec)
    else:
        folder = RunFolder.create(out, name or find_env(env).stem)
    console.print(
        f"[bold]{spec.id}[/bold] with {config.model.name} · profile {profile} · "
        f"run folder {folder.path}",
        highlight=False,
    )
    started = time.monotonic()
    try:
        outcomes = train(spec, config, folder, console=console, resume=resume is not None)
    except PreflightFailed:
        if not resume:
            # No step was trained, so the folder cannot be resumed.
            shutil.rmtree(folder.path)
        raise
    except (KeyboardInterrupt, TooManyFailures) as stop:
        if isinstance(stop, TooManyFailures):
            console.print(f"\n{stop}", highlight=False, markup=False, soft_wrap=True)
        again = " ".join(["envgym train", env, *settings, "--resume", str(folder.path)])
        console.print(
            f"\nstopped and saved. To continue:  {again}", highlight=False, soft_wrap=True
        )
        return 1 if isinstance(stop, TooManyFailures) else 130
    print_summary(env, folder, config, outcomes, console, seconds=time.monotonic() - started)
    return 0


def resolve(env: str, settings: Iterable[str]) -> tuple[EnvSpec, TrainConfig, str]:
    """Return the environment, its training settings and the profile of this device.

    The profile is `cpu` or `gpu`.
    """
    from envgym_trainer.model.load import pick_device

    settings = list(settings)
    asked = TrainConfig.of(load_spec(env, settings).train).model.device
    profile = "gpu" if pick_device(asked).startswith("cuda") else "cpu"
    spec = load_spec(env, settings, profile=profile)
    return spec, TrainConfig.of(spec.train).checked(), profile


def train(
    spec: EnvSpec, config: TrainConfig, folder: RunFolder, *, console: Console, resume: bool = False
) -> dict[str, Outcome]:
    """Run one training run in `folder`.

    Returns:
        Evaluations by name.

    Raises:
        KeyboardInterrupt: If the user stops the run. All progress is saved.
        TooManyFailures: If too many episodes are void. All progress is saved.
    """
    import torch

    from envgym_trainer.model.load import pick_device
    from envgym_trainer.preflight import before_training
    from envgym_trainer.run.display import Display
    from envgym_trainer.run.logger import RunLogger
    from envgym_trainer.run.provenance import run_facts
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
        RunLogger(folder) as monitor,
        Display({"warmup": 0, "grpo": config.steps}, console=console) as display,
    ):
        monitor.config(resolved_yaml(spec, config))
        trainer = Trainer(spec, config, folder, monitor, display)
        try:
            display.plan["warmup"] = trainer.warmup_steps
            if sandbox := trainer.world.sandbox:
                display.note(f"sandbox: {sandbox.label}")
            if resume:
                trainer.resume()
            else:
                before_training(trainer)
            outcomes = trainer.run()
            trainer.export(outcomes)
            return outcomes
        finally:
            trainer.close()


def resolved_yaml(spec: EnvSpec, config: TrainConfig) -> str:
    """Return all settings in force as YAML."""
    plain: dict[str, Any] = spec.model_dump(mode="json", by_alias=True, exclude={"train"})
    plain["train"] = config.model_dump(mode="json", by_alias=True, exclude={"profiles"})
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=120)


def _same_settings(folder: RunFolder, spec: EnvSpec) -> None:
    before = yaml.safe_load(folder.config_file.read_text(encoding="utf-8")).get("id")
    if before != spec.id:
        raise UsageError(
            f"{folder.path} is a run of '{before}', not of '{spec.id}'. Resume it with '{before}'."
        )


def print_summary(
    env: str,
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
    console.print(f"  envgym eval {env} --policy adapter:{folder.adapter}", highlight=False)
    serve = serve_command(
        base_id(folder), folder.path.name, str(folder.adapter), rank=config.lora.rank
    )
    console.print(f"  {serve}", highlight=False, soft_wrap=True)


def base_id(folder: RunFolder) -> str:
    import json

    return json.loads((folder.adapter / "adapter_config.json").read_text(encoding="utf-8"))[
        "base_model_name_or_path"
    ]
