"""`envgym train`: resolve settings, create or open the run folder, train, print a summary."""

from __future__ import annotations

import json
import shlex
import shutil
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from envgym.errors import TooManyFailures, UsageError, WorldFailure
from envgym.evaluation.report import Outcome, outcomes_table
from envgym.secrets import redact
from envgym.spec.catalog import find_env
from envgym.spec.environment import EnvSpec, load_spec
from envgym.spec.late_values import credential_lines, with_values
from envgym.text import terminal
from envgym.tools import to_openai
from envgym_trainer.config import TrainConfig
from envgym_trainer.run.folder import RunFolder
from envgym_trainer.training.own_settings import (
    changes_of_file,
    check_settings,
    record_changes,
    resolved_yaml,
    settings_of_run,
)

if TYPE_CHECKING:
    from envgym_trainer.training.loop import Trainer


def start(
    env: str,
    settings: Iterable[str],
    *,
    out: Path,
    name: str | None,
    resume: Path | None,
    override: bool = False,
) -> int:
    """Train or resume a run from the command line.

    Args:
        env: Path, name or id of the environment.
        settings: `key=value` settings. A resumed run has its own settings below them.
        out: Folder of the runs.
        name: Name of the run's folder. Default: the name of the YAML file.
        resume: Run folder of a stopped run to continue.
        override: Continue a run with settings that differ from its own.

    Returns:
        The exit code.
    """
    from envgym_trainer.learner.distributed import refuse_launcher

    refuse_launcher()
    settings = list(settings)
    console = terminal.Console()
    if override and resume is None:
        raise UsageError("--override belongs to --resume RUN. Leave it out for a new run.")
    if resume is None:
        spec, config, profile = resolve(env, settings)
        folder = RunFolder.create(out, name or find_env(env).stem)
        origin = f"profile {profile}"
    else:
        folder = RunFolder.open(resume)
        folder.check_free()  # Before the imports, which take seconds.
        spec, config = resume_settings(folder, env, settings, console)
        origin = "settings of the run"
    about = f" with {config.model.name} · {origin} · run folder {folder.path}"
    console.print(terminal.heading(spec.id, about), soft_wrap=True)
    for line in credential_lines(spec):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    started = time.monotonic()
    try:
        outcomes = run_training(
            spec,
            config,
            folder,
            console=console,
            resume=resume is not None,
            override=override,
            settings=settings,
        )
    except (KeyboardInterrupt, TooManyFailures, WorldFailure) as stop:
        if not isinstance(stop, KeyboardInterrupt):
            console.print(f"\n{stop}", highlight=False, markup=False, soft_wrap=True)
        again = shlex.join(["envgym", "train", env, "--resume", str(folder.path)])
        # A server that does not answer stops a run in the middle of a step.
        saved = "stopped" if isinstance(stop, WorldFailure) else "stopped and saved"
        again = redact(f"\n{saved}. To continue:  {again}")
        console.print(again, highlight=False, soft_wrap=True)
        return 130 if isinstance(stop, KeyboardInterrupt) else 1
    seconds = time.monotonic() - started
    # A resumed run has settings of its first command line too.
    begun_with = folder.facts().get("settings") or [] if resume is not None else []
    print_summary(env, [*begun_with, *settings], folder, config, outcomes, console, seconds=seconds)
    return 0


def resolve(env: str, settings: Iterable[str]) -> tuple[EnvSpec, TrainConfig, str]:
    """Return the environment, its training settings and the profile of this device.

    The profile is `cpu` or `gpu`.
    """
    from envgym_trainer.model.rendering_choice import with_rendering
    from envgym_trainer.rollout.plans import find_plan

    settings = list(settings)
    first = load_spec(env, settings)
    asked = TrainConfig.of(with_values(first, first.places).train).model.device
    profile = profile_of(asked)
    spec = load_spec(env, settings, profile=profile)
    spec = with_values(spec, spec.places)  # Both show references, not values, when written.
    config = TrainConfig.of(spec.train).checked()
    find_plan(config.plan.name, spec)  # An unknown plan is an error before the model is loaded.
    return with_rendering(spec, config.model.name), config, profile


def profile_of(device: str) -> str:
    """Return the profile of a device of the settings: `cpu` or `gpu`."""
    from envgym_trainer.model.load import pick_device

    return "gpu" if pick_device(device).startswith("cuda") else "cpu"


def resume_settings(
    folder: RunFolder, env: str, overrides: Sequence[str], console: Console
) -> tuple[EnvSpec, TrainConfig]:
    """Return the run's own settings with the overrides over them.

    Settings that the environment's file gives another value today are printed.
    """
    own = settings_of_run(folder, env)
    profile = profile_of(own[1].model.device)
    for line in changes_of_file(folder, env, own, profile=profile):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    return settings_of_run(folder, env, overrides, profile=profile)


def run_training(
    spec: EnvSpec,
    config: TrainConfig,
    folder: RunFolder,
    *,
    console: Console,
    resume: bool = False,
    override: bool = False,
    settings: Sequence[str] | None = None,
) -> dict[str, Outcome]:
    """Run one training run in `folder`.

    Args:
        spec: Environment specification.
        config: Training settings.
        folder: Run folder. It is locked until the run ends.
        console: Terminal.
        resume: Continue the run that the folder holds.
        override: Continue it with settings that differ from its own.
        settings: `key=value` settings of the command line, for `run.json`. None: there is none.

    Returns:
        Evaluations by name.

    Raises:
        UsageError: If another process trains in the folder, or if the settings differ from the
            run's own and `override` is False.
        KeyboardInterrupt: If the user stops the run. All progress is saved.
        TooManyFailures: If too many episodes are void. All progress is saved.
        PreflightFailed: If the run cannot learn. The folder is removed, because no step was
            trained.
    """
    with folder.locked(notify=lambda line: console.print(line, highlight=False, markup=False)):
        if resume:
            check_settings(folder, (spec, config), override=override)
        return _train(spec, config, folder, console, resume=resume, settings=settings)


def _train(
    spec: EnvSpec,
    config: TrainConfig,
    folder: RunFolder,
    console: Console,
    *,
    resume: bool,
    settings: Sequence[str] | None,
) -> dict[str, Outcome]:
    from envgym_trainer.run.display import Display
    from envgym_trainer.run.logger import RunLogger
    from envgym_trainer.run.provenance import run_facts
    from envgym_trainer.training.export import export_adapter
    from envgym_trainer.training.loop import Trainer

    place = _place(config)
    facts = run_facts(
        seeds={"train": config.seed},
        device=place,
        settings=None if settings is None else list(settings),
        env=str(spec.path),
        env_id=spec.id,
    )
    if not resume:
        folder.write_facts(facts)
        folder.write_config(resolved_yaml(spec, config))
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
                step = trainer.progress.step
                for change in record_changes(
                    folder, (spec, config), step, command=facts["command"], time=facts["started"]
                ):
                    display.note(f"after step {step}: {change.describe('this session')}")
            else:
                _check_before_training(trainer)
                tools = to_openai(trainer.world.tools.values())
                folder.write_prompt(trainer.chat.describe() | {"tools": tools})
            outcomes = trainer.run()
            export_adapter(trainer, outcomes)
            return outcomes
        finally:
            trainer.close()


def _place(config: TrainConfig) -> str:
    """Return the device of the computation for people."""
    import torch

    from envgym_trainer.model.load import pick_device

    device = pick_device(config.model.device)
    if device == "cpu":
        return f"cpu ({torch.get_num_threads()} threads)"
    return torch.cuda.get_device_name(device)


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
    from envgym_trainer.model.adapter_files import MANIFEST
    from envgym_trainer.model.serving_form import PLUGIN
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
    console.print(f"  {redact(command)}", highlight=False, soft_wrap=True)
    manifest = json.loads((folder.adapter / MANIFEST).read_text(encoding="utf-8"))
    plugin = PLUGIN if (folder.adapter / PLUGIN).is_file() else None
    serve = serve_command(
        base_id(folder),
        folder.path.name,
        str(folder.adapter),
        rank=config.lora.rank,
        parser=manifest.get("parser"),
        plugin=plugin,
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
    return json.loads((folder.adapter / "adapter_config.json").read_text(encoding="utf-8"))[
        "base_model_name_or_path"
    ]
