"""Checkpoints are atomic and bounded in number, damage is reported, and the best one is kept."""

import json
import os
import shutil

import pytest
import torch

from envgym.errors import UsageError
from envgym_trainer.config import TrainConfig
from envgym_trainer.config.evaluation import OutputConfig
from envgym_trainer.files import hash_files
from envgym_trainer.learner.learner import Learner
from envgym_trainer.learner.update_settings import UpdateSettings
from envgym_trainer.run.folder import RunFolder
from envgym_trainer.training import best, checkpoint
from envgym_trainer.training.checkpoint import DamagedCheckpoint, Progress
from envgym_trainer.training.launch import resolve
from envgym_trainer.training.resume import restore
from envgym_trainer.training.schedule import Schedule
from tests.fakes.tiny_lora import random_samples, tiny_model


class Counter:
    """Stateful part of a run, such as a curriculum or a controller."""

    def __init__(self, count=0):
        self.count = count

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]


def learner_at(step=0):
    return Learner(tiny_model(dtype=torch.float32))


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """Return a run with checkpoints of steps 1, 2 and 3, each with its own adapter and counter."""
    run = RunFolder.create(tmp_path_factory.mktemp("runs"), "r")
    learner = learner_at()
    for step in (1, 2, 3):
        learner.update(random_samples(step), UpdateSettings(learning_rate=1e-2))
        run.append_metrics({"step": step})
        progress = Progress(step, file_sizes=run.file_sizes())
        run.save_checkpoint(
            step,
            lambda folder, p=progress, n=step: checkpoint.save(
                folder, learner, p, {"n": Counter(n)}
            ),
            keep=3,
        )
    return run.path


@pytest.fixture
def run(three, tmp_path):
    """Copy the run, so that a test may damage it."""
    return RunFolder(shutil.copytree(three, tmp_path / "r"))


def restored(run):
    part = Counter()
    said = []
    learner, progress = restore(run, learner_at, {"n": part}, notify=said.append)
    return progress.step, part.count, learner.updates, " ".join(said)


def names(run):
    return sorted(path.name for path in (run.path / "checkpoints").iterdir())


def test_the_last_checkpoint_is_taken_with_the_state_of_every_part(run):
    assert restored(run) == (3, 3, 3, "")


@pytest.mark.parametrize(
    ("file", "harm"),
    [
        *(
            (file, harm)
            for file in ("learner.pt", "parts.pt", "progress.json")
            for harm in ("truncated", "missing", "other byte")
        ),
        ("manifest.json", "missing"),
        ("manifest.json", "truncated"),
        ("manifest.json", "other byte"),
    ],
)
def test_a_damaged_checkpoint_is_told_and_set_aside_and_the_one_before_is_taken(run, file, harm):
    path = run.checkpoint(3) / file
    if harm == "truncated":
        os.truncate(path, path.stat().st_size // 2)
    elif harm == "missing":
        path.unlink()
    else:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    step, count, updates, said = restored(run)
    assert (step, count, updates) == (2, 2, 2)
    assert f"WARNING: {run.checkpoint(3)}/" in said
    assert "damaged checkpoint" in said
    assert "set aside as damaged-step-000003; the one before it is taken" in said
    assert names(run) == ["damaged-step-000003", "step-000001", "step-000002"]
    assert [line["step"] for line in run.metrics()] == [1, 2]


def test_when_all_are_damaged_nothing_is_overwritten_and_the_way_out_is_told_each_time(run):
    for _, path in run.checkpoints():
        os.truncate(path / "learner.pt", 100)
    for _ in range(2):
        with pytest.raises(
            UsageError,
            match=r"no checkpoint that can be read.*Put back a copy of one, or start the run again",
        ):
            restored(run)
    assert [line["step"] for line in run.metrics()] == [1, 2, 3]


@pytest.mark.parametrize("manifest", ["absent", "valid"])
def test_a_checkpoint_of_an_earlier_format_is_refused_and_stays(run, manifest):
    folder = run.checkpoint(3)
    (folder / "manifest.json").unlink()
    (folder / "progress.json").write_text(json.dumps({"step": 3, "evaluations": {}}))
    if manifest == "valid":
        (folder / "manifest.json").write_text(json.dumps(hash_files(folder, skip="manifest.json")))
    with pytest.raises(UsageError, match=r"has checkpoint format 1, but .* reads format 2 only"):
        restored(run)
    assert names(run) == ["step-000001", "step-000002", "step-000003"]


@pytest.mark.parametrize(
    ("parts", "wanted"), [({}, "no parts"), ({"n": Counter(), "m": Counter()}, "m, n")]
)
def test_a_run_with_other_parts_than_its_checkpoint_is_refused(run, parts, wanted):
    with pytest.raises(UsageError, match=f"holds the state of n, but this run needs {wanted}"):
        restore(run, learner_at, parts, notify=print)


def test_a_run_killed_before_its_first_checkpoint_starts_again_and_says_so(run):
    shutil.rmtree(run.path / "checkpoints")
    step, count, updates, said = restored(run)
    assert (step, count, updates, run.metrics()) == (0, 0, 0, [])
    assert "stopped before its first checkpoint" in said


def test_a_finished_run_that_lost_its_checkpoints_is_not_written_over(run):
    shutil.rmtree(run.path / "checkpoints")
    run.save_adapter(lambda folder: (folder / "weights").touch())
    with pytest.raises(UsageError, match="no checkpoint that can be read"):
        restored(run)


def test_lines_of_an_evaluation_that_was_not_finished_are_dropped_though_their_step_is_kept(run):
    run.append_metrics({"step": 3, "phase": "eval"})
    run.append_metrics({"step": 3, "phase": "eval"})
    restored(run)
    assert run.metrics() == [{"step": 1}, {"step": 2}, {"step": 3}]


def test_a_file_of_lines_shorter_than_its_checkpoint_says_is_cut_by_its_steps(run):
    run.metrics_file.write_text('{"step":1}\n{"step":4}\n')
    restored(run)
    assert run.metrics() == [{"step": 1}]


def test_what_a_kill_left_half_written_goes_and_what_it_had_moved_away_comes_back(run):
    folder = run.path / "checkpoints"
    shutil.copytree(run.checkpoint(3), folder / ".step-000004.partial")
    # killed between the two renames of a replacement
    run.checkpoint(3).rename(folder / ".step-000003.old")
    shutil.copytree(run.checkpoint(2), folder / ".step-000002.old")  # killed after both renames
    (run.path / ".config.yaml.partial").write_text("half")
    assert restored(run)[0] == 3
    assert names(run) == ["step-000001", "step-000002", "step-000003"]
    assert not [path for path in run.path.iterdir() if path.name.startswith(".")]


def test_the_best_stays_besides_the_last(run):
    run.save_checkpoint(4, lambda folder: (folder / "x").touch(), keep=1, also_keep=[2])
    assert names(run) == ["step-000002", "step-000004"]


def test_a_checkpoint_is_on_the_disk_before_it_has_its_name(run, monkeypatch):
    synced = []
    original = os.fsync
    monkeypatch.setattr(
        "os.fsync",
        lambda descriptor: (
            synced.append(os.readlink(f"/proc/self/fd/{descriptor}")),
            original(descriptor),
        ),
    )
    run.save_checkpoint(4, lambda folder: (folder / "weights").write_text("w"), keep=9)
    partial, folder = (
        str(run.path / "checkpoints" / name) for name in (".step-000004.partial", "")
    )
    assert (
        synced.index(f"{partial}/weights")
        < synced.index(partial)
        < synced.index(folder.rstrip("/"))
    )
    assert str(run.metrics_file) in synced


def test_the_best_is_the_highest_validation_and_of_equals_the_earlier():
    progress = Progress()
    for step, success in ((1, 0.2), (2, 0.5), (3, None), (4, 0.5), (5, 0.4)):
        progress.step = step
        best.record_validation(progress, success, tasks=64, file_sizes={})
    assert progress.best == {"step": 2, "success": 0.5, "tasks": 64}
    assert progress.last_validated_step == 5
    assert best.describe_adapter(progress, TrainConfig(output=OutputConfig(adapter="best"))) == {
        "adapter of": "step 2, the best of the validations (50% of 64 tasks)"
    }
    assert best.describe_adapter(progress, TrainConfig()) == {}


@pytest.mark.parametrize(
    ("successes", "name", "line"),
    [
        # Steps 0 (base model), 2 (warm start), 3 and 4 (GRPO).
        ({0: 0.1, 2: 0.4, 3: 0.2, 4: 0.3}, "warm start", "no GRPO step solved more"),
        ({0: 0.5, 2: 0.4, 3: 0.2, 4: 0.5}, "base model", "an adapter without effect is exported"),
        ({0: 0.1, 2: 0.4, 3: 0.4, 4: 0.6}, "step 4", "best adapter: step 4 (60% of 10 tasks)"),
        ({0: 0.0, 2: 0.0, 3: 0.0, 4: 0.0}, "base model", "no GRPO step solved more"),
        ({0: None, 2: None, 3: 0.1, 4: None}, "step 3", "best adapter: step 3 (10% of 10 tasks)"),
    ],
)
def test_the_best_may_be_the_base_model_or_the_warm_start(successes, name, line):
    config = TrainConfig.model_validate(
        {
            "warm_start": {"episodes": 4, "episodes_per_step": 2},
            "steps": 2,
            "output": {"adapter": "best"},
            "evaluation": {"validate_every_steps": 1},
        }
    )
    progress = Progress()
    assert best.announce(progress, config) == ""
    for step, success in successes.items():
        assert Schedule(config).is_validation_step(step)
        assert progress.last_validated_step < step
        progress.step = step
        best.record_validation(progress, success, tasks=10, file_sizes={})
    assert best.describe_adapter(progress, config)["adapter of"].startswith(f"{name}, the best")
    assert line in best.announce(progress, config)
    assert best.announce(progress, TrainConfig()) == ""


def test_without_a_warm_start_the_base_model_is_the_first_candidate():
    blocks = {"steps": 2, "output": {"adapter": "best"}, "warm_start": {"episodes": 0}}
    schedule = Schedule(
        TrainConfig.model_validate(blocks | {"evaluation": {"validate_every_steps": 2}})
    )
    assert [step for step in range(3) if schedule.is_validation_step(step)] == [0, 2]
    assert [schedule.name_of(step) for step in range(3)] == ["base model", "step 1", "step 2"]


def test_asking_for_the_best_without_validations_is_refused_at_the_start():
    with pytest.raises(
        UsageError,
        match=r"train\.output\.adapter is best, "
        r"but train\.evaluation\.validate_every_steps is 0.*=last",
    ):
        resolve("guess", ["train.model.device=cpu", "train.output.adapter=best"])


def test_inside_the_block_the_model_has_the_best_adapter_and_outside_its_own(run):
    learner = learner_at()
    checkpoint.load(run.checkpoint(3), learner, {"n": Counter()})
    value = lambda: next(iter(learner.parameters.values())).clone()
    last = value()
    progress = Progress(3, best={"step": 1, "success": 0.5, "tasks": 2})
    wanted = next(
        iter(torch.load(run.checkpoint(1) / "learner.pt", weights_only=True)["adapter"].values())
    )
    assert not torch.equal(last, wanted)
    with best.best_adapter(run, progress, learner, None):
        assert torch.equal(value(), wanted)
    assert torch.equal(value(), last)
    os.truncate(run.checkpoint(1) / "learner.pt", 100)
    with pytest.raises(
        DamagedCheckpoint,
        match=r"It was the best checkpoint. To export the last one: "
        r"--resume .* train\.output\.adapter=last",
    ):
        best.best_adapter(run, progress, learner, None).__enter__()
