"""A run that is stopped, killed or damaged resumes and ends bit for bit like an undisturbed one."""

import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from envgym_trainer.files import hash_files
from envgym_trainer.run.folder import RunFolder
from envgym_trainer.training.interrupt import GracefulStop, StopRequested
from envgym_trainer.training.launch import resolve, run_training, start

LETTERS = "id: test/letters-v0\ngym: tests.fakes.letters_env:Letters-v0\ntasks: {val: 2, test: 3}\n"
SMALL = [
    "train.model=tiny",
    "train.model.device=cpu",
    "train.rollout.deterministic=true",
    "train.warm_start.episodes=0",
    "train.steps=4",
    "train.rollout.groups_per_step=2",
    "train.rollout.group_size=3",
    "train.optimizer.updates_per_step=2",
    "train.optimizer.learning_rate=1e-3",
    "train.rollout.max_turn_tokens=5",
    "train.evaluation.base_tasks=2",
    "train.evaluation.tasks=3",
    "train.evaluation.validate_every_steps=1",
    "train.evaluation.validation_tasks=2",
    "train.output.checkpoint_every_steps=1",
    "train.algorithm.kl.coef=0.01",
    "train.controllers.kl={target: 0.001}",
    "train.optimizer.max_kl=0.5",
    "train.controllers.learning_rate={target: 0.002, max: 0.1}",
    "train.controllers.entropy={target: 9.0}",
]
CLOCKS = ("seconds", "time", "throughput", "sandbox", "idle")


def settings_of(*settings):
    return [*SMALL, *settings]


@pytest.fixture(scope="module")
def env(tmp_path_factory):
    path = tmp_path_factory.mktemp("envs") / "letters.yaml"
    path.write_text(LETTERS)
    return str(path)


def play(env, folder, *settings, resume=False):
    """Run in this process. Return the output and the run folder."""
    spec, config, _ = resolve(env, settings_of(*settings))
    target = RunFolder.open(folder) if resume else RunFolder.create(folder.parent, folder.name)
    with open(os.devnull, "w") as nowhere:
        console = Console(file=nowhere, record=True, width=500)
        run_training(spec, config, target, console=console, resume=resume)
    return target, console.export_text()


@pytest.fixture(scope="module")
def whole(env, tmp_path_factory):
    folder, _ = play(env, tmp_path_factory.mktemp("runs") / "whole")
    steps = [line for line in folder.metrics() if line["phase"] == "grpo"]
    assert all(line["grad_norm"] > 0 for line in steps)  # otherwise equality would prove nothing
    for name in ("kl_coef", "learning_rate", "entropy_coef", "step_kl"):
        assert len({line[f"controller/{name}"] for line in steps}) == 4
    return folder


def without_clocks(line):
    return {name: value for name, value in line.items() if not any(word in name for word in CLOCKS)}


def assert_same_end(folder, whole):
    """Assert that two runs end equally.

    Adapters are compared by bytes; optimizer, counters and random state by value; every line of the
    records without its clock fields.
    """
    first, second = (run.adapter / "adapter_model.safetensors" for run in (folder, whole))
    assert first.read_bytes() == second.read_bytes()
    states = [
        torch.load(run.latest_checkpoint()[1] / "learner.pt", weights_only=True)
        for run in (folder, whole)
    ]
    torch.testing.assert_close(*states, rtol=0, atol=0)
    for read in (
        lambda run: run.metrics(),
        lambda run: [json.loads(line) for line in run.episodes_file.read_text().splitlines()],
    ):
        # line by line: pytest takes minutes to print the difference of two whole runs
        for line, wanted in zip(read(folder), read(whole), strict=True):
            assert without_clocks(line) == without_clocks(wanted)


def test_two_n_steps_equal_n_steps_a_resume_and_n_steps_to_the_bit(
    env, whole, tmp_path, monkeypatch
):
    # base evaluation 2, step 1 with its validation 3, step 2, and the start of its validation
    stops_at_check(monkeypatch, 7)
    with pytest.raises(StopRequested):
        play(env, tmp_path / "halves")
    halves = RunFolder.open(tmp_path / "halves")
    assert halves.latest_checkpoint()[0] == 2
    stops_at_check(monkeypatch, -1)
    play(env, halves.path, resume=True)
    assert_same_end(halves, whole)


def stops_at_check(monkeypatch, count):
    """Stop the run just before its `count`-th safe point, or never if `count` is -1."""
    checks = iter(range(1, 1000))

    def check(self):
        if next(checks) == count:
            raise StopRequested

    monkeypatch.setattr(GracefulStop, "check", check)


class Killed:
    """Runs of `envgym train` in processes that are killed. All share one import of torch."""

    def __init__(self, env, out):
        self.env = env
        self.out = out
        self.path = out / "r"
        self.kills = 0
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(
            ["envgym_trainer.training.loop", "tests.fakes.letters_env"]
        )

    def written(self):
        """Return the size of the run's records in bytes."""
        return sum(RunFolder(self.path).file_sizes().values())

    def go(self, *, kill_at_bytes=None, then_seconds=0.0):
        """Start or resume, until the end or until SIGKILL.

        The process is killed `then_seconds` after its records reach `kill_at_bytes`.
        """
        resume = self.path if (self.path / "config.yaml").exists() else None
        if resume is None:
            # killed before it saved its settings: there is nothing to resume
            shutil.rmtree(self.path, ignore_errors=True)
        process = self.context.Process(target=quiet_start, args=(self.env, SMALL, self.out, resume))
        process.start()
        while (
            kill_at_bytes is not None
            and process.exitcode is None
            and self.written() < kill_at_bytes
        ):
            time.sleep(0.002)
        process.join(None if kill_at_bytes is None else then_seconds)
        if process.exitcode is None:
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            self.kills += 1
        else:
            assert process.exitcode == 0


def quiet_start(env, settings, out, resume):
    # as in the test process: another number of threads changes the order of additions
    torch.set_num_threads(1)
    with open(os.devnull, "w") as sys.stdout:
        sys.exit(start(env, settings, out=out, name="r", resume=resume))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_a_run_that_is_killed_again_and_again_at_random_instants_ends_as_one_that_was_not(
    env, whole, tmp_path, seed
):
    run = Killed(env, tmp_path)
    rng = random.Random(seed)
    end = sum(whole.file_sizes().values())
    for _ in range(4):
        run.go(
            kill_at_bytes=run.written() + rng.uniform(0, 0.5) * (end - run.written()),
            then_seconds=rng.uniform(0, 0.2),
        )
    run.go()
    assert run.kills >= 2
    assert_same_end(RunFolder.open(run.path), whole)
    names = {path.name for path in (*run.path.iterdir(), *(run.path / "checkpoints").iterdir())}
    assert not [name for name in names if name.startswith(".") or "damaged" in name]


def test_the_best_adapter_is_evaluated_and_exported_and_the_last_stays_in_the_checkpoint(
    env, whole, tmp_path
):
    run = RunFolder(shutil.copytree(whole.path, tmp_path / "r"))
    last = run.checkpoint(4)
    progress = json.loads((last / "progress.json").read_text())
    del progress["evaluations"]["trained"]
    (last / "progress.json").write_text(
        json.dumps(progress | {"best": {"step": 3, "success": 1.0, "tasks": 2}})
    )
    manifest = json.dumps(hash_files(last, skip="manifest.json"))
    (last / "manifest.json").write_text(manifest)
    play(env, run.path, "train.output.adapter=best", resume=True)
    adapter_of = lambda step: torch.load(run.checkpoint(step) / "learner.pt", weights_only=True)[
        "adapter"
    ]
    handed = load_file(run.adapter / "adapter_model.safetensors")
    wanted = adapter_of(3)
    kept = adapter_of(4)
    assert all(
        torch.equal(handed[name.replace(".default", "")], value) for name, value in wanted.items()
    )
    assert any(not torch.equal(wanted[name], value) for name, value in kept.items())
    torch.testing.assert_close(
        kept,
        torch.load(whole.checkpoint(4) / "learner.pt", weights_only=True)["adapter"],
        rtol=0,
        atol=0,
    )
    assert (
        "step 3, the best of the validations (100% of 2 tasks)"
        in (run.adapter / "README.md").read_text()
    )
    logprobs = [
        e.tokens.logprobs
        for folder in (run, whole)
        for s, p, e in folder.episodes()
        if (s, p) == (4, "eval")
    ]
    assert logprobs[:3] != logprobs[3:]  # sampled with another adapter than the last
