import json
import math
import os

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


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../x", "a/b", "/tmp/x", "a/..", "a\\b", "a\0b", "a\nb", "\x1b[2J", "\u202eab"],
)
def test_a_name_that_is_no_folder_name_is_refused_and_nothing_is_made(tmp_path, name):
    with pytest.raises(UsageError, match="is not a folder name") as error:
        RunFolder.create(tmp_path / "runs", name)
    assert str(error.value).isprintable()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a", "a.b", "..a", "-x", "über lauf", "a" * 200])
def test_a_folder_name_is_a_run_name(tmp_path, name):
    assert RunFolder.create(tmp_path, name).path == tmp_path / name


def test_a_run_is_not_made_through_a_link_with_its_name(tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "r").symlink_to(tmp_path / "outside")
    assert RunFolder.create(tmp_path, "r").path == tmp_path / "r-2"


def test_the_record_of_a_run_is_written_once(run):
    run.write_config("id: a\n")
    run.write_facts({"a": 1})
    with pytest.raises(FileExistsError, match=r"config\.yaml exists already"):
        run.write_config("id: b\n")
    with pytest.raises(FileExistsError, match=r"run\.json exists already"):
        run.write_facts({"a": 2})
    assert run.config_file.read_text() == "id: a\n"
    assert run.facts() == {"a": 1}


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", "\x00"])
def test_a_damaged_run_json_is_told(run, text):
    run.facts_file.write_text(text)
    with pytest.raises(UsageError, match=r"run\.json is no JSON object"):
        run.facts()


LINKS = [
    "metrics.jsonl",
    "episodes.jsonl",
    "hacking_signals.jsonl",
    "config.yaml",
    "run.json",
    "run.lock",
    "checkpoints",
    "checkpoints/step-000001",
    "checkpoints/step-000001/learner.pt",
    "adapter/adapter_model.safetensors",
    ".metrics.jsonl.partial",
]


@pytest.mark.parametrize("target", ["file", "folder", "missing"])
@pytest.mark.parametrize("name", LINKS)
def test_a_link_out_of_the_run_folder_is_refused_and_its_target_kept(tmp_path, run, name, target):
    run.write_config("id: a\n")
    outside = tmp_path / "outside"
    if target == "file":
        outside.write_text("kept")
    elif target == "folder":
        outside.mkdir()
        (outside / "config.yaml").write_text("kept")
    link = run.path / name
    if link.exists():
        link.unlink()
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(outside)
    if name == "config.yaml" and target != "file":
        match = "is not a run folder"
    else:
        match = "outside of the run folder"
    with pytest.raises(UsageError, match=match):
        RunFolder.open(run.path)
    assert target != "file" or outside.read_text() == "kept"


def test_a_link_inside_of_the_folder_and_a_link_to_the_folder_are_followed(tmp_path, run):
    run.write_config("id: a\n")
    (run.path / "checkpoints").mkdir()
    (run.path / "latest").symlink_to("checkpoints")
    (tmp_path / "shortcut").symlink_to(run.path)
    assert RunFolder.open(tmp_path / "shortcut").config_file.read_text() == "id: a\n"


def test_a_pipe_in_a_run_folder_is_refused_before_it_is_read(run):
    run.write_config("id: a\n")
    os.mkfifo(run.metrics_file)
    with pytest.raises(UsageError, match="is neither a file nor a folder"):
        RunFolder.open(run.path)


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
