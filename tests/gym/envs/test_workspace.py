"""The workspace: tools confined to a folder, a shell with a timeout, and tasks checked by files."""

import os
import re
import time
from collections import Counter
from pathlib import Path

import pytest

from envgym import Change, Task, ToolCall
from envgym.dialects import render_call
from envgym.modules import load_file
from envgym.playing import play
from envgym.policies.oracle import OraclePolicy
from envgym.policies.scripted import ScriptedPolicy
from envgym.registration import make_world
from envgym.sandbox.agent import load_module
from envgym.spec.environment import load_spec
from envgym.tasks import SPLITS
from envgym.tasksets.templates import TemplateTaskSet

WORKSPACE = Path(__file__).parents[3] / "envs" / "workspace"
BOX = ("sandbox.backend=local", "sandbox.isolation=fork", "sandbox.executes_code=false")
"""Sandbox of these tests. No model wrote the commands, so a local process is safe."""
SPEC = load_spec(WORKSPACE.parent / "workspace.yaml", BOX)
SOURCE = TemplateTaskSet(SPEC)
TEMPLATES = SOURCE.templates
FILES = load_module(WORKSPACE / "box/files.py")
SHELL = load_module(WORKSPACE / "box/shell.py")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "secret.txt").write_text("secret\n")
    work = tmp_path / "work"
    (work / "notes").mkdir(parents=True)
    (work / "notes/a.txt").write_text("one\ntwo\nthree\n")
    (work / "out").symlink_to(tmp_path)
    (work / "in").symlink_to("notes")
    os.mkfifo(work / "pipe")
    return work


@pytest.fixture(scope="module")
def world():
    world = make_world(SPEC)
    yield world
    world.close()


def refused(tool, folder, **arguments) -> str:
    with pytest.raises(ValueError, match=r".") as caught:
        tool(folder, **arguments)
    return str(caught.value)


# --- file tools ---


@pytest.mark.parametrize(
    "path",
    [
        "../secret.txt",
        "/etc/passwd",
        "notes/../../secret.txt",
        "out/secret.txt",
        "out",
        "..",
        "a\0b",
    ],
)
def test_no_tool_follows_a_path_out_of_the_folder(folder, path):
    before = (folder.parent / "secret.txt").read_text()
    for words in (
        refused(FILES.list_files, folder, path=path),
        refused(FILES.read_file, folder, path=path),
        refused(FILES.write_file, folder, path=path, text="x"),
        refused(FILES.patch_file, folder, path=path, old="secret", new="x"),
    ):
        assert "work folder" in words
    assert (folder.parent / "secret.txt").read_text() == before


def test_a_link_within_the_folder_may_be_followed(folder):
    assert FILES.read_file(folder, "in/a.txt") == "one\ntwo\nthree\n"


def test_a_pipe_is_refused_and_holds_nobody_up(folder):
    assert refused(FILES.read_file, folder, path="pipe")
    assert refused(FILES.write_file, folder, path="pipe", text="x")


def test_a_listing_shows_rights_sizes_and_links(folder):
    lines = FILES.list_files(folder).splitlines()
    assert lines[0] == "link in -> notes"
    assert lines[1:3] == ["755 folder notes/", "644 14 notes/a.txt"]


def test_a_long_listing_is_cut_with_a_marker(folder):
    for number in range(300):
        (folder / f"notes/{number}").touch()
    assert FILES.list_files(folder, "notes").endswith(
        "\n[more than 200 entries; list a folder of them]"
    )


def test_lines_are_counted_from_one(folder):
    assert FILES.read_file(folder, "notes/a.txt", first=2, last=2) == "two\n"
    assert FILES.read_file(folder, "notes/a.txt", first=3) == "three\n"
    assert "has 3 lines" in refused(FILES.read_file, folder, path="notes/a.txt", first=9)


def test_a_long_file_is_cut_with_a_marker(folder):
    (folder / "long").write_text("x\n" * 500)
    assert FILES.read_file(folder, "long").endswith("x\n[lines 1 to 200 of 500]")
    assert FILES.read_file(folder, "long", first=499) == "x\nx\n"


def test_writing_makes_folders_and_ends_the_text_with_a_newline(folder):
    FILES.write_file(folder, "new/b.txt", "text")
    assert (folder / "new/b.txt").read_text() == "text\n"
    FILES.write_file(folder, "new/b.txt", "t\n")
    assert (folder / "new/b.txt").read_text() == "t\n"


@pytest.mark.parametrize(
    ("old", "words"),
    [("nine", "does not stand there"), ("t", "2 times"), ("", "does not stand there")],
)
def test_a_patch_replaces_what_stands_there_exactly_once_or_nothing(folder, old, words):
    assert words in refused(FILES.patch_file, folder, path="notes/a.txt", old=old, new="x")
    FILES.patch_file(folder, "notes/a.txt", "two\n", "zwei\n")
    assert (folder / "notes/a.txt").read_text() == "one\nzwei\nthree\n"


# --- the shell ---


def test_a_command_shows_its_output_and_exit_code(folder):
    assert (
        SHELL.run(folder, "cat notes/a.txt | head -n 1; echo wrong >&2; exit 3")
        == "one\nwrong\nexit code 3"
    )
    assert SHELL.run(folder, "true") == "exit code 0"


def test_what_is_printed_does_not_tell_where_the_folder_lies(folder):
    assert SHELL.run(folder, "pwd; echo $PWD/notes") == ".\nnotes\nexit code 0"


def test_a_command_that_runs_too_long_is_an_observation_and_ends_with_all_it_started(
    folder, monkeypatch
):
    monkeypatch.setattr(SHELL, "SECONDS", 0.5)
    words = refused(SHELL.run, folder, command="echo begun; (sleep 1; touch late) & sleep 60")
    assert words == "begun\nstopped: not done after 0.5 s"
    time.sleep(1.2)
    assert not (folder / "late").exists()


def test_nothing_goes_on_in_the_background(folder):
    assert SHELL.run(folder, "(sleep 0.5; touch late) & echo started") == "started\nexit code 0"
    time.sleep(0.8)
    assert not (folder / "late").exists()


def test_what_left_its_group_does_not_hold_the_command_up(folder):
    assert SHELL.run(folder, "setsid sleep 3 & echo on").endswith("exit code 0")


def test_long_output_is_cut_with_a_marker_and_endless_output_stopped(folder):
    cut = SHELL.run(folder, "head -c 20000 /dev/zero | tr '\\0' x")
    assert cut.endswith("x\n[output cut: the first 16,384 of 20,000 bytes are shown]\nexit code 0")
    assert refused(SHELL.run, folder, command="while :; do echo 0123456789; done").endswith(
        "stopped: printed more than 1,048,576 bytes"
    )


def test_a_command_sees_no_variable_of_ours(folder, monkeypatch):
    monkeypatch.setenv("SECRET", "x")
    assert "SECRET" not in SHELL.run(folder, "env")


def test_a_command_is_stopped_before_the_world_counts_as_broken():
    assert SPEC.episode.tool_timeout_seconds >= SHELL.SECONDS + 5


# --- the tasks ---

PLACES = [(name, split) for name, template in TEMPLATES.items() for split in template.splits]


def test_there_are_twenty_templates_and_each_level_holds_one_out():
    assert Counter(template.level for template in TEMPLATES.values()) == {
        "L0": 5,
        "L1": 5,
        "L2": 7,
        "L3": 3,
    }
    assert {t.level for t in TEMPLATES.values() if t.splits == ("test",)} == {
        "L0",
        "L1",
        "L2",
        "L3",
    }


@pytest.mark.parametrize(("name", "split"), PLACES)
def test_the_oracle_solves_a_task_and_with_one_file_more_it_does_not(world, name, split):
    env = world.env()
    task = SOURCE.task(f"{split}/{name}/0")
    assert play(env, OraclePolicy("pythonic"), seed=0, task=task.id).success
    calls = [*task.oracle, ToolCall("run", {"command": "touch left_over"})]
    script = ScriptedPolicy([render_call(call, "pythonic") for call in calls])
    episode = play(env, script, seed=0, task=task.id)
    assert (episode.success, episode.reward) == (False, 0.0)
    env.close()


def test_every_bug_of_the_world_is_known_and_its_mended_program_right(world):
    level3 = load_file(WORKSPACE / "level3.py")
    programs = load_module(WORKSPACE / "box/world.py").PROGRAMS
    assert [sum(bug.wrong in program for program in programs) for bug in level3.BUGS] == [1] * len(
        programs
    )


def mending(task: Task, text: str) -> ScriptedPolicy:
    path = task.changes[0].key
    return ScriptedPolicy(
        [render_call(ToolCall("write_file", {"path": path, "text": text}), "pythonic")]
    )


CHEATS = {
    "ends before the test can look": "import os; os._exit(0)",
    "says nothing": "pass",
    "kills the test": "import os, signal; os.kill(os.getppid(), signal.SIGKILL)",
    "prints the answers of the test": "print(open('tests/test_hidden.py').read())",
    "never ends": "while True: pass",
}


@pytest.mark.parametrize("cheat", CHEATS)
def test_a_program_that_does_not_work_is_not_solved_however_it_tries(world, cheat):
    env = world.env()
    task = SOURCE.task("train/mend_program/0")
    episode = play(env, mending(task, CHEATS[cheat]), seed=0, task=task.id)
    assert (episode.success, episode.reward, episode.failure) == (False, 0.0, None)
    assert episode.reward_parts["tests_pass"] == 0.0
    assert episode.state_diff["verification"]["exit_code"] != 0
    env.close()


def test_another_way_to_mend_a_file_is_as_good(world):
    env = world.env()
    task = SOURCE.task("train/mend_json/0")
    compact = re.sub(r"\s", "", task.oracle[-1].arguments["text"])
    assert play(env, mending(task, compact), seed=0, task=task.id).success
    env.close()


def test_text_in_files_is_compared_to_the_letter(world):
    env = world.env()
    task = SOURCE.task("train/write_note/0")
    write = task.oracle[0]
    shouted = ToolCall("write_file", write.arguments | {"text": write.arguments["text"].upper()})
    assert not play(
        env, ScriptedPolicy([render_call(shouted, "pythonic")]), seed=0, task=task.id
    ).success
    env.close()


def test_splits_share_no_prompt_and_no_folder():
    drawn = {split: [SOURCE.task(id_) for id_ in SOURCE.ids(split, count=40)] for split in SPLITS}
    for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
        assert not {task.prompt for task in drawn[one]} & {task.prompt for task in drawn[other]}
        assert not {task.seed for task in drawn[one]} & {task.seed for task in drawn[other]}


def test_the_box_does_not_get_the_tasks():
    from envgym.sandbox import App
    from envgym.sandbox.archive import pack

    packed = pack(App(SPEC.root.resolve(), SPEC.tools, None, None, SPEC.state.files))
    assert b"lay_out" in packed
    for secret in (b"oracle", b"test_hidden", b"largest = int(sys.argv[1])"):
        assert secret not in packed


def test_expected_changes_name_existing_files():
    for name, split in PLACES:
        task = SOURCE.task(f"{split}/{name}/1")
        assert task.changes
        assert all(
            isinstance(change, Change) and change.table == "files" for change in task.changes
        )
