"""ToolRL's rows and multi-step traces."""

import json

import pytest

from envgym.errors import UsageError
from envgym.registration import make_world
from envgym.rewards.scoring.toolrl import format_score, truth_calls
from envgym.spec.environment import load_spec
from envgym.tasks import SPLITS
from envgym.tasksets.dialogue_traces import THOUGHT, listing, steps_of
from envgym.tasksets.toolrl_rows import rows_from, split_of
from tests.gym.tasksets.toolrl_files import ENVS, LIST, TOOLS, TRUTH, written

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


# --- templates and the shipped environment ---


@pytest.fixture(scope="module")
def world():
    world = make_world(load_spec(ENVS / "toolrl.yaml"))
    yield world
    world.close()
