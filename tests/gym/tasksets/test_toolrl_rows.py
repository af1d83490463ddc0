"""ToolRL's data as tasks: rows, traces, variants of prompt and truth, and the shipped set."""

import dataclasses
import json
import random
from pathlib import Path

import pytest

from envgym.errors import SpecError, UsageError
from envgym.evaluation.checks import check
from envgym.playing import play
from envgym.policies.oracle import OraclePolicy
from envgym.policies.scripted import ScriptedPolicy
from envgym.registration import make_world
from envgym.rewards.scoring.toolrl import correctness_score, format_score, truth_calls
from envgym.spec.environment import load_spec
from envgym.tasks import SPLITS
from envgym.tasksets.dialogue_traces import THOUGHT, listing, steps_of
from envgym.tasksets.templates import TemplateTaskSet
from envgym.tasksets.toolrl_example import ToolRLExample
from envgym.tasksets.toolrl_rows import rows_from, split_of
from envgym.tasksets.toolrl_variants import NO_TOOL, irrelevant_rows, masked_row, tool_names

ENVS = Path(__file__).parents[3] / "envs"
SCHEMA = {"type": "object", "properties": {"word": {"type": "string"}}}
TOOLS = [
    {
        "type": "function",
        "function": {"name": name, "description": "Does\nit.", "parameters": SCHEMA},
    }
    for name in ("find_room", "search", "Free Rooms")
]
LIST = listing(TOOLS)
TRUTH = (
    '<think> a </think>\n<tool_call>\n{"name": "find_room", "parameters": {"word": "search"}}'
    "\n</tool_call>"
)


ROW = ToolRLExample(
    f"Use these:\n{LIST}\nEnd.",
    "<user> Please search a room, with find_room. </user>",
    TRUTH,
    "rows.jsonl:1",
    "group",
)


def row(**changes):
    return dataclasses.replace(ROW, **changes)


def written(folder, text, name="rows.jsonl"):
    (folder / name).write_text(
        text if isinstance(text, str) else json.dumps(text), encoding="utf-8"
    )
    return folder / name


# --- rows ---

OWN = {"system": "s", "user": "u", "truth": TRUTH, "split": "val"}
RAW = {"instruction": "s", "input": "u", "output": TRUTH}
VERL = {
    "prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}],
    "reward_model": {"style": "rule", "ground_truth": TRUTH},
    "extra_info": {"split": "test", "index": 3},
}


@pytest.mark.parametrize(("record", "split"), [(OWN, "val"), (RAW, None), (VERL, "test")])
def test_a_row_is_read_in_each_of_its_forms(record, split, tmp_path):
    for name, text in (("rows.jsonl", f"\n{json.dumps(record)}\n"), ("rows.json", [record])):
        (found,) = rows_from(written(tmp_path, text, name))
        assert (found.system, found.user, found.truth, found.split) == ("s", "u", TRUTH, split)
        assert found.prompt == "s\n\nu"


def test_a_csv_keeps_line_breaks_and_lines(tmp_path):
    quoted = TRUTH.replace('"', '""')
    first, second = rows_from(
        written(
            tmp_path,
            f'system,user,truth\ns,u\u2028u,"{quoted}"\n,v,<response>r</response>\n',
            "rows.csv",
        )
    )
    assert (first.user, first.truth, second.system, second.user) == ("u\u2028u", TRUTH, "", "v")
    assert first.where.endswith("rows.csv:5")  # the last line of the row
    assert second.prompt == "v"


@pytest.mark.parametrize(
    ("name", "text", "what"),
    [
        (
            "rows.jsonl",
            '{"system": ""}\n',
            r"rows.jsonl:1: no 'user'; a row has system, user, truth",
        ),
        ("rows.jsonl", '\n{"user": "u", "truth": 3}', r"rows.jsonl:2: .* must be strings"),
        (
            "rows.jsonl",
            '\n{"user": "u", "truth": "<tool_call>x</tool_call>"}',
            r"rows.jsonl:2: truth: line 1 of <tool_call> is not JSON",
        ),
        ("rows.jsonl", '{"user": " ", "truth": "t"}', r"rows.jsonl:1: the user text is empty"),
        ("rows.jsonl", '{"user": "u", "truth": ""}', r"rows.jsonl:1: the truth is empty"),
        (
            "rows.jsonl",
            '{"user": "u", "truth": "t", "split": "tset"}',
            r"rows.jsonl:1: split is 'tset', did you mean 'test'",
        ),
        ("rows.jsonl", "[1]", r"rows.jsonl:1: a row must be an object, got list"),
        ("rows.jsonl", "{", r"rows.jsonl:1: not valid JSON"),
        ("rows.json", "{}", r"rows.json: must hold a list"),
        ("rows.json", '[{"user": "u", "truth": "t"}, {}]', r"rows.json: row 2: no 'user'"),
        (
            "rows.jsonl",
            '{"prompt": [{"role": "user"}]}',
            r"rows.jsonl:1: `prompt` must list messages",
        ),
        (
            "rows.jsonl",
            json.dumps(VERL | {"prompt": VERL["prompt"] * 2}),
            r"rows.jsonl:1: `prompt` must contain one user message",
        ),
        ("rows.jsonl", "\n", r"contains no rows"),
        ("rows.parquet", "", r"not from '.parquet'"),
    ],
)
def test_a_bad_row_is_told_with_its_line(name, text, what, tmp_path):
    with pytest.raises(UsageError, match=what):
        rows_from(written(tmp_path, text, name))


def test_rows_with_an_unreadable_truth_are_left_out_on_request_only(tmp_path):
    file = written(
        tmp_path,
        f'{json.dumps(RAW)}\n{{"user": "u", "truth": "<think>a <tool_call> comes</think>"}}\n',
    )
    assert len(rows_from(file, skip_unreadable=True)) == 1
    with pytest.raises(UsageError, match=r":2: truth"):
        rows_from(file)
    with pytest.raises(UsageError, match="cannot be read"):
        rows_from(tmp_path / "none.json")


# --- traces ---

MESSAGES = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "A room?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"function": {"name": "find_room", "arguments": '{"word": "é"}'}},
            {"function": {"name": "search", "arguments": {}}},
        ],
    },
    {"role": "tool", "content": "R1"},
    {"role": "tool", "content": "R2"},
    {"role": "assistant", "content": "<think>Two.</think>R1 or R2."},
]


def test_each_answer_of_a_chat_becomes_a_step_with_the_dialogue_before_it():
    (system, first, call), (_, second, told) = steps_of(
        {"messages": MESSAGES, "tools": TOOLS}, "t.jsonl:1"
    )
    assert system == f"Be kind.\n\nTools:\n{LIST}"
    assert first == "Dialogue so far:\n<user> A room? </user>"
    assert (
        call == f"<think> {THOUGHT} </think>\n<tool_call>\n"
        '{"name": "find_room", "parameters": {"word": "é"}}\n'
        '{"name": "search", "parameters": {}}\n</tool_call>'
    )
    assert second == f"{first}\n{call}\n<obs> R1 </obs>\n<obs> R2 </obs>"
    assert told == "<think> Two. </think>\n<response> R1 or R2. </response>"
    assert format_score(call, call) == format_score(told, told) == 1.0


def test_each_answer_of_a_tagged_dialogue_becomes_a_step():
    text = (
        "<user> A room? </user>\n\n<think> find </think>\n"
        '<tool_call>\n{"name": "f", "parameters": {}}\n</tool_call>\n'
        "<obs> R1 </obs><response> R1. </response>\n"
        "<user> Thanks </user><think> polite </think><response> Bye. </response>"
    )
    steps = steps_of({"system": "s", "dialogue": text}, "t.jsonl:1")
    find, plain, polite = (f"<think> {thought} </think>" for thought in ("find", THOUGHT, "polite"))
    assert [truth.split("\n")[0] for _, _, truth in steps] == [find, plain, polite]
    assert steps[2][1].endswith(
        f"<obs> R1 </obs>\n{plain}\n<response> R1. </response>\n<user> Thanks </user>"
    )
    assert {system for system, _, _ in steps} == {"s"}
    assert all(format_score(truth, truth) == 1.0 for _, _, truth in steps)


def test_an_answer_of_a_chat_may_be_written_in_tags_already():
    said = (
        '<think>a</think>\n<tool_call>\n{"name": "f", "parameters": {}}\n</tool_call>\n'
        "<response>b</response>"
    )
    ((_, _, truth),) = steps_of(
        {"messages": [MESSAGES[1], {"role": "assistant", "content": said}]}, "t:1"
    )
    assert truth_calls(truth) == [{"name": "f", "parameters": {}}]
    assert truth.startswith("<think> a </think>\n<tool_call>\n")
    assert truth.endswith("</tool_call>\n<response> b </response>")


def test_the_tools_of_a_chat_are_listed_with_their_parameters():
    assert LIST.split("\n")[:3] == [
        "1. Name: find_room",
        "Description: Does it.",
        'Parameters: {"word": {"type": "string"}}',
    ]
    assert listing([{"name": "f"}]) == "1. Name: f\nDescription: \nParameters: {}"


@pytest.mark.parametrize(
    ("trace", "what"),
    [
        ({"messages": [{"role": "user", "content": "u"}]}, "t:1: the trace has no answer"),
        ({"messages": [{"role": "assistant", "content": "hello"}]}, "t:1: the trace has no answer"),
        (
            {"messages": [{"role": "user", "content": "u"}, {"role": "assistant"}]},
            "t:1: message 2: .* neither a tool call",
        ),
        ({"messages": [{"role": "bot"}]}, "t:1: message 1 has the role 'bot'"),
        ({"messages": "u"}, "must be a list"),
        (
            {"messages": [{"role": "user", "content": {"a": 1}}]},
            "t:1: message 1: content must be text, got dict",
        ),
        (
            {
                "messages": [
                    {
                        "role": "assistant",
                        "content": "<tool_call>a</tool_call><tool_call>b</tool_call>",
                    }
                ]
            },
            "t:1: message 1: .* one",
        ),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"function": {"arguments": "{"}}]}]},
            "t:1: message 1: tool_calls",
        ),
        ({"dialogue": "<user> u </user> and"}, "t:1: dialogue: 'and' is outside"),
        ({"dialogue": 3}, "must be text"),
    ],
)
def test_a_bad_trace_is_told_with_its_place(trace, what):
    with pytest.raises(UsageError, match=what):
        steps_of(trace, "t:1")


def test_the_steps_of_a_trace_stay_in_one_split_wherever_the_file_lies(tmp_path):
    traces = [
        {"messages": [{"role": "user", "content": f"Request {n}"}, *MESSAGES[2:]]}
        for n in range(40)
    ]
    text = "\n".join(map(json.dumps, traces))
    rows = rows_from(written(tmp_path, text))
    assert len(rows) == 80
    splits = [
        {split_of(row, val=0.3, test=0.3) for row in pair}
        for pair in zip(rows[::2], rows[1::2], strict=True)
    ]
    assert [len(found) for found in splits] == [1] * 40
    assert set().union(*splits) == set(SPLITS)
    (tmp_path / "elsewhere").mkdir()
    assert [row.group for row in rows_from(written(tmp_path / "elsewhere", text))] == [
        row.group for row in rows
    ]


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
        "id: t/rows-v0\nprompt: {tools: template}\n"
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


def said(world, task, text):
    return play(world.env(), ScriptedPolicy([text]), seed=0, task=task.id)


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
