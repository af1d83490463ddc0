"""Variants and templates of ToolRL rows, and the shipped environment."""

import json
import random

import pytest

from envgym.errors import SpecError, UsageError
from envgym.evaluation.checks import check
from envgym.playing import play
from envgym.policies.oracle import OraclePolicy
from envgym.registration import make_world
from envgym.rewards.scoring.toolrl import correctness_score, format_score, truth_calls
from envgym.spec.environment import load_spec
from envgym.tasks import SPLITS
from envgym.tasksets.dialogue_traces import listing
from envgym.tasksets.templates import TemplateTaskSet
from envgym.tasksets.toolrl_variants import NO_TOOL, irrelevant_rows, masked_row, tool_names
from tests.gym.tasksets.toolrl_files import ENVS, LIST, ROW, TOOLS, TRUTH, row, said, written

# --- variants ---


def test_masked_names_are_the_same_in_system_text_dialogue_and_truth():
    user = ROW.user + '\n<tool_call>\n{"name": "Free Rooms", "parameters": {}}\n</tool_call>'
    masked = masked_row(row(user=user), random.Random(3))
    room, search, free = tool_names(masked)
    assert len({room, search, free, *tool_names(ROW)}) == 6
    listed = (
        LIST.replace("find_room", room)
        .replace(": search", f": {search}")
        .replace("Free Rooms", free)
    )
    assert masked.system == f"Use these:\n{listed}\nEnd."
    assert truth_calls(masked.truth) == [{"name": room, "parameters": {"word": "search"}}]
    assert (
        f"Please search a room, with {room}." in masked.user
    )  # `search` is a word of the request, not a name
    assert f'{{"name": "{free}", "parameters"' in masked.user
    assert (
        masked_row(row(user=user), random.Random(3))
        == masked
        != masked_row(row(user=user), random.Random(4))
    )


def test_a_masked_answer_is_right_and_one_with_the_old_names_is_not():
    masked = masked_row(ROW, random.Random(0))
    assert correctness_score(masked.truth, masked.truth) == 1.0
    assert correctness_score(TRUTH, masked.truth) == 0.0


def test_a_name_written_with_escapes_is_masked_as_well():
    truth = '<tool_call>\n{"name": "caf\\u00e9", "parameters": {}}\n</tool_call>'
    masked = masked_row(row(truth=truth, system=listing([{"name": "café"}])), random.Random(0))
    assert truth_calls(masked.truth)[0]["name"] == tool_names(masked)[0] != "café"


def test_a_name_inside_another_word_is_no_name():
    tools = listing([{"name": name} for name in ("get_it", "get_it_now", "get_it.x")])
    masked = masked_row(
        row(system=tools, user="get_it get_it_now get_it.x target_it get_its", truth=NO_TOOL),
        random.Random(0),
    )
    assert masked.user.split()[:3] == tool_names(masked)
    assert "." not in masked.user
    assert masked.user.split()[3:] == ["target_it", "get_its"]


def test_a_row_without_a_list_of_tools_cannot_be_masked():
    with pytest.raises(UsageError, match=r"rows.jsonl:1: the system text lists no tools"):
        masked_row(row(system="none"), random.Random(0))


def test_an_irrelevant_row_lacks_the_tool_and_its_truth_calls_nothing():
    (made,) = irrelevant_rows([ROW])
    assert tool_names(made) == ["search", "Free Rooms"]
    assert made.system.startswith("Use these:\n1. Name: search\n")
    assert "2. Name: Free Rooms\n" in made.system
    assert made.system.endswith("}\nEnd.")
    assert (made.truth, made.user, made.group) == (NO_TOOL, ROW.user, ROW.group)
    assert format_score(TRUTH, NO_TOOL) == 0.0
    assert format_score(NO_TOOL, NO_TOOL) == 1.0


def test_rows_that_would_tell_or_leave_nothing_make_no_irrelevant_one():
    called = '<tool_call>\n{"name": "find_room", "parameters": {}}\n</tool_call>'
    alone = row(system=listing(TOOLS[:1]))
    assert (
        irrelevant_rows(
            [row(truth=NO_TOOL), row(user=called), row(user=called.replace(": ", ":")), alone]
        )
        == ()
    )


# --- templates and the shipped environment ---


def test_a_task_is_a_row_of_its_split(tmp_path):
    lines = [
        {"user": f"u{n}", "truth": NO_TOOL, "split": split} for split in SPLITS for n in range(2)
    ]
    written(tmp_path, "\n".join(json.dumps(line) for line in lines))
    (tmp_path / "tasks.py").write_text(
        "from pathlib import Path\nfrom envgym.tasksets import row_template, rows_from\n"
        "rows = row_template('rows', rows_from(Path(__file__).parent / 'rows.jsonl'))\n",
        encoding="utf-8",
    )
    env = (
        "id: t/rows-v0\ntools: []\n"
        "tasks: {from: tasks.py, val: 2, test: 3}\nsandbox: {backend: none}\n"
        "reward: {solved: {from: toolrl_correctness}}\n"
    )
    source = TemplateTaskSet(load_spec(written(tmp_path, env, "env.yaml")))
    assert [source.task(f"train/rows/{index}").prompt for index in range(3)] == ["u0", "u1", "u0"]
    task = source.task("test/rows/1")
    assert (task.prompt, task.final, task.extra["truth"], task.tools) == (
        "u1",
        NO_TOOL,
        NO_TOOL,
        (),
    )
    assert task.extra["where"].endswith("rows.jsonl:6")
    with pytest.raises(SpecError, match=r"test/rows/2.*there are 2 rows.*lower tasks.test"):
        source.task("test/rows/2")


@pytest.fixture(scope="module")
def world():
    world = make_world(load_spec(ENVS / "toolrl.yaml"))
    yield world
    world.close()


def called(world):
    """Return a held-out task whose truth calls a tool."""
    tasks = map(world.tasks.task, world.tasks.ids("test"))
    return next(task for task in tasks if "<tool_call>" in task.extra["truth"])


def test_the_oracle_of_the_shipped_environment_earns_everything(world):
    for split in ("val", "test"):
        for task_id in world.tasks.ids(split):
            truth = world.tasks.task(task_id).extra["truth"]
            episode = play(world.env(), OraclePolicy("pythonic"), seed=0, task=task_id)
            assert (episode.success, episode.terminated, episode.turns) == (True, True, 1)
            assert episode.reward == (4.0 if "<tool_call>" in truth else 1.0)


def test_the_shipped_environment_can_be_trusted():
    results = {
        result.id: result for result in check(load_spec(ENVS / "toolrl.yaml"), tasks_per_split=3)
    }
    assert [result for result in results.values() if not result.passed] == []
    assert "oracle solutions with one wrong value" in results["wrong_field"].detail
    for name in ("canary_floor.random", "tool_declaration_accuracy"):
        assert results[name].detail == "not applicable: there are no tools"


def test_held_out_rows_of_the_shipped_environment_are_never_trained_on(world):
    rows = {
        split: {world.tasks.task(i).extra["where"] for i in world.tasks.ids(split, count=n)}
        for split, n in (("train", 180), ("val", None), ("test", None))
    }
    assert all(
        len(found) > 5 for found in rows.values()
    )  # line numbers of the file; all steps of a trace share one
    assert not rows["train"] & (rows["val"] | rows["test"])
    assert not rows["val"] & rows["test"]


def test_masked_tasks_have_other_names_at_each_index_and_the_same_ones_again(world):
    count = len(
        {world.tasks.task(f"train/single/{index}").prompt for index in range(80)}
    )  # then it repeats
    first, again, other = (world.tasks.task(f"train/masked/{index}") for index in (1, 1, 1 + count))
    assert first == again
    assert first.extra["where"] == other.extra["where"]
    assert first.prompt != other.prompt


@pytest.mark.parametrize(
    ("text", "stop", "reward"),
    [
        ("TRUTH", "answered", 4.0),  # <tool_call> is plain text here, so the episode terminates
        (
            "find_it(word='x')",
            "max_turns",
            -3.0,
        ),  # a call in the environment's dialect to a missing tool
        ("<think> never closed", "max_turns", -3.0),
        ("Done.", "answered", -3.0),
    ],
)
def test_whatever_ends_the_only_turn_the_whole_answer_is_judged(world, text, stop, reward):
    task = called(world)
    episode = said(world, task, task.extra["truth"] if text == "TRUTH" else text)
    assert (episode.stop_reason, episode.reward, episode.turns) == (stop, reward, 1)
    assert episode.failure is None


def test_the_reward_is_the_same_where_the_calls_are_read_as_calls():
    world = make_world(load_spec(ENVS / "toolrl.yaml", ["prompt.dialects=[hermes]"]))
    try:
        task = called(world)
        episode = said(world, task, task.extra["truth"])
        assert (episode.stop_reason, episode.dialects) == (
            "max_turns",
            {"invalid": 1},
        )  # `parameters` instead of `arguments`
        assert (episode.reward, episode.success) == (4.0, True)
    finally:
        world.close()
