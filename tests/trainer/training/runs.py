"""Small runs on the guessing game."""

from rich.console import Console

from envgym_trainer.run.folder import RunFolder
from envgym_trainer.training.launch import resolve, run_training

SMALL = [
    "train.model=tiny",
    "train.model.device=cpu",
    "train.warm_start.episodes=8",
    "train.warm_start.episodes_per_step=4",
    "train.steps=2",
    "train.rollout.groups_per_step=2",
    "train.rollout.group_size=4",
    "train.evaluation.tasks=4",
    "train.rollout.max_turn_tokens=8",
    "train.output.checkpoint_every_steps=1",
    "train.evaluation.validate_every_steps=1",
    "train.evaluation.validation_tasks=2",
]
FOREIGN = "id: test/echo-v0\ngym: tests.fakes.echo_env:Echo-v0\ntasks: {val: 2, test: 4}\n"
BREAKS_LATE = """\
from pathlib import Path

def breaks_late(evidence):
    scored = Path(__file__).with_name("scored")
    with scored.open("a") as stream:
        stream.write(".")
    if scored.stat().st_size > 8 and not Path(__file__).with_name("repaired").exists():
        raise RuntimeError("grader down")
    return 0.0
"""


def run(folder, *settings, env="guess", resume=False):
    spec, config, _ = resolve(str(env), [*SMALL, *settings])
    target = RunFolder.open(folder) if resume else RunFolder.create(folder.parent, folder.name)
    return run_training(spec, config, target, console=Console(quiet=True), resume=resume), target


def adapter_of(folder):
    from safetensors.torch import load_file

    return load_file(folder.adapter / "adapter_model.safetensors")
