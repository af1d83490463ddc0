"""Files of ToolRL rows, written by tests."""

import dataclasses
import json
from pathlib import Path

from envgym.playing import play
from envgym.policies.scripted import ScriptedPolicy
from envgym.tasksets.dialogue_traces import listing
from envgym.tasksets.toolrl_example import ToolRLExample

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


def said(world, task, text):
    return play(world.env(), ScriptedPolicy([text]), seed=0, task=task.id)
