import json
import math

import pytest

from envgym.episode import Episode
from envgym.errors import UsageError
from envgym.messages import Message
from envgym.policies import TokenTrace
from envgym_trainer.run.folder import RunFolder
from envgym_trainer.run.provenance import git_state, run_facts


def episode(reward: float = 1.0) -> Episode:
    trace = TokenTrace((1, 2), (False, True), (0.0, -0.5))
    return Episode(
        "demo", "train/t/0", "train", "L0", "t", 3, (Message("user", "Grüße\n🙂"),), trace, reward
    )


@pytest.fixture
def run(tmp_path) -> RunFolder:
    return RunFolder.create(tmp_path, "guess")


def test_a_run_is_never_written_over(tmp_path):
    names = [RunFolder.create(tmp_path / "runs", "guess").path.name for _ in range(3)]
    assert names == ["guess", "guess-2", "guess-3"]


def test_a_folder_without_a_config_is_no_run(tmp_path):
    with pytest.raises(UsageError, match=r"is not a run folder: it has no config\.yaml"):
        RunFolder.open(tmp_path)


def test_episodes_come_back_as_they_went_in(run):
    run.append_episodes(4, [episode(0.5), episode(1.0)], phase="warmup")
    assert list(run.episodes()) == [(4, "warmup", episode(0.5)), (4, "warmup", episode(1.0))]


def test_each_line_of_episodes_is_the_record_itself(run):
    run.append_episodes(4, [episode()])
    [line] = run.episodes_file.read_text().splitlines()
    assert Episode.from_json(line) == episode()
    assert {"step": 4, "phase": "grpo"}.items() <= json.loads(line).items()


def test_a_number_that_is_not_finite_becomes_null(run):
    run.append_metrics({"step": 1, "loss": math.nan, "kl": math.inf, "reward": 0.5})
    assert run.metrics() == [{"step": 1, "loss": None, "kl": None, "reward": 0.5}]


def test_resuming_drops_what_came_after_the_step_and_keeps_the_rest(run):
    for step in (1, 2, 3):
        run.append_metrics({"step": step})
        run.append_episodes(step, [episode()])
    run.truncate_after(2)
    assert [line["step"] for line in run.metrics()] == [1, 2]
    assert list(run.episodes()) == [(1, "grpo", episode()), (2, "grpo", episode())]


def test_a_line_torn_by_a_kill_costs_that_line_only(run):
    run.append_metrics({"step": 1})
    with run.metrics_file.open("a") as stream:
        stream.write('{"step": 2, "los')
    run.append_metrics({"step": 3})
    assert [line["step"] for line in run.metrics()] == [1, 3]


def test_the_last_checkpoints_are_kept(run):
    for step in (10, 20, 30):
        run.save_checkpoint(
            step, lambda folder, step=step: (folder / "weights").write_text(str(step)), keep=2
        )
    assert [(step, folder.name) for step, folder in run.checkpoints()] == [
        (20, "step-000020"),
        (30, "step-000030"),
    ]
    step, folder = run.latest_checkpoint() or pytest.fail("no checkpoint")
    assert (folder / "weights").read_text() == str(step) == "30"


def test_a_checkpoint_interrupted_half_way_does_not_exist(run):
    def interrupted(folder):
        (folder / "weights").write_text("half")
        raise KeyboardInterrupt

    run.save_checkpoint(10, lambda folder: (folder / "weights").write_text("whole"))
    with pytest.raises(KeyboardInterrupt):
        run.save_checkpoint(20, interrupted, keep=1)
    assert [folder.name for folder in (run.path / "checkpoints").iterdir()] == ["step-000010"]


def test_saving_a_step_again_replaces_it(run):
    for text in ("old", "new"):
        run.save_checkpoint(10, lambda folder, text=text: (folder / text).touch())
    assert [file.name for file in (run.path / "checkpoints" / "step-000010").iterdir()] == ["new"]


def test_the_adapter_is_replaced_as_a_whole(run):
    for text in ("first", "second"):
        run.save_adapter(lambda folder, text=text: (folder / text).touch())
    assert [file.name for file in run.adapter.iterdir()] == ["second"]


def test_the_facts_say_what_ran(run):
    run.write_facts(run_facts(seeds={"train": 7}, device="cpu", argv=["envgym", "train", "guess"]))
    facts = run.facts()
    assert facts["seeds"] == {"train": 7}
    assert facts["command"] == ["envgym", "train", "guess"]
    assert {"torch", "transformers", "peft", "gymnasium"} <= facts["versions"].keys()
    assert facts["started"].endswith("+00:00")


def test_outside_a_checkout_there_is_no_commit(tmp_path):
    assert git_state(tmp_path) is None
