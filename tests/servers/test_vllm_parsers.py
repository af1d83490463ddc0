"""vLLM's parser of a dialect reads exactly the calls that the dialect writes."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from envgym.dialects import dialect_names, find_dialect, write_calls
from envgym.messages import ToolCall
from envgym_trainer.model.load import load_tokenizer

pytestmark = pytest.mark.servers

NOT_COMPARED = {"command", "harmony"}
"""Dialects whose parser in vLLM is part of its server and cannot be called alone."""
ONE_CALL = {"internlm"}
"""Dialects whose parser in vLLM reads one call an answer."""
LOOK_UP = {
    "word": {"type": "string"},
    "id": {"type": "string"},
    "n": {"type": "integer"},
    "on": {"type": "boolean"},
    "x": {"type": "array", "items": {"anyOf": [{"type": "integer"}, {"type": "string"}]}},
    "o": {"type": "object"},
}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": name,
            "parameters": {"type": "object", "properties": properties},
        },
    }
    for name, properties in (("look_up", LOOK_UP), ("done", {}))
]
CALLS = [
    [ToolCall("look_up", {"word": "tree", "n": 7})],
    [
        ToolCall(
            "look_up",
            {"word": "a \"q\" é\nline 'x'", "id": "7", "on": True, "x": [1, "b"], "o": {"k": "v"}},
        )
    ],
    [ToolCall("done", {})],
    [ToolCall("look_up", {"word": "a"}), ToolCall("look_up", {"word": "b", "n": -1})],
]
MARKS = [
    *("<|tool_calls_section_end|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>", '<|"|>'),
    *("</seed:tool_call>", "</minimax:tool_call>", "</longcat_tool_call>", "<|action_end|>"),
    *("<｜tool▁call▁end｜>", "<|python_end|>", "</arg_key>", "<seed:think>", "</seed:think>"),
    *("<think>", "</think>", "[THINK]", "[/THINK]", "<|channel>", "<channel|>", "<escape>"),
]


def test_the_parser_of_a_dialect_reads_what_it_writes(vllm, tmp_path):
    load_tokenizer("smollm2-135m-instruct").save_pretrained(tmp_path)
    named = {name: getattr(find_dialect(name), "VLLM_PARSER", None) for name in dialect_names()}
    named = {name: parser for name, parser in named.items() if parser and name not in NOT_COMPARED}
    cases = [
        {"dialect": name, "parser": parser, "calls": calls}
        for name, parser in named.items()
        for calls in CALLS
        if len(calls) == 1 or name not in ONE_CALL
    ]
    marks = [mark for name in named for mark in getattr(find_dialect(name), "MARKS", ())]
    given = {
        "tokenizer": str(tmp_path),
        "marks": MARKS + marks,
        "tools": TOOLS,
        "cases": [
            {
                **case,
                "text": write_calls(case["calls"], case["dialect"], known=TOOLS),
                "calls": None,
            }
            for case in cases
        ],
    }
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [Path(vllm).parent / "python", Path(__file__).parent / "vllm_parser.py"],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    read = json.loads(done.stdout.splitlines()[-1])
    for case, answer in zip(cases, read, strict=True):
        meant = [call.to_dict() for call in case["calls"]]
        assert answer == {"calls": meant, "content": ""}, case
