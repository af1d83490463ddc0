"""Train from Python: the function behind `envgym train`, without the command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from envgym.evaluation.report import Outcome
from envgym.spec.environment import EnvSpec
from envgym.text.terminal import Console
from envgym_trainer.config import TrainConfig
from envgym_trainer.model.rendering_choice import with_rendering
from envgym_trainer.rollout.plans import find_plan
from envgym_trainer.run.folder import RunFolder
from envgym_trainer.training.launch import resolve, resume_settings, run_training


@dataclass(frozen=True, slots=True)
class TrainResult:
    """Result of a finished training run."""

    folder: RunFolder
    """Run folder with metrics, episodes and checkpoints."""
    outcomes: dict[str, Outcome]
    """Evaluations by name: `base model`, `warm start`, `trained`."""
    adapter: Path | None
    """Folder of the adapter. `None` if `output.adapter` is `none`."""


def train(
    spec: EnvSpec | Path | str,
    config: TrainConfig | None = None,
    *,
    out: Path | str = "runs",
    name: str | None = None,
    resume: Path | str | None = None,
    override: bool = False,
) -> TrainResult:
    """Train a LoRA adapter on an environment, and print the progress.

    Args:
        spec: Environment specification, path of a YAML file, or name of an environment.
        config: Training settings. Default: the `train:` block of the environment. For a path or a
            name, the profile of this machine's device (`profiles.cpu`, `profiles.gpu`) is applied,
            and a resumed run continues with its own settings.
        out: Folder of the runs. Not used if `resume` is given.
        name: Name of the run's folder. Default: the name of the YAML file.
        resume: Run folder of a stopped run to continue.
        override: Continue it with settings that differ from its own.

    Returns:
        Run folder, evaluations and adapter.

    Raises:
        SpecError: If the settings do not fit the environment.
        UsageError: If settings contradict each other, or the preflight finds that the run cannot
            learn, or another process trains in the folder, or the settings differ from those of the
            run to resume and `override` is False.
        PrerequisiteError: If a package is not installed or a service is not reachable.
        TooManyFailures: If too many episodes are void. All progress is saved.
        KeyboardInterrupt: If the user stops the run. All progress is saved; continue with `resume`.
    """
    folder = None if resume is None else RunFolder.open(resume)
    if isinstance(spec, EnvSpec):
        settings = config or TrainConfig.of(spec.train)
    elif folder is not None and config is None:
        spec, settings = resume_settings(folder, str(spec), [], Console())
    else:
        spec, settings, _ = resolve(str(spec), [])
        settings = config or settings
    settings.checked()
    find_plan(settings.plan.name, spec)  # An unknown plan is an error before the model is loaded.
    spec = with_rendering(spec, settings.model.name)
    folder = folder or RunFolder.create(Path(out), name or spec.path.stem)
    outcomes = run_training(
        spec,
        settings,
        folder,
        console=Console(),
        resume=resume is not None,
        override=override,
    )
    adapter = None if settings.output.adapter == "none" else folder.adapter
    return TrainResult(folder, outcomes, adapter)
