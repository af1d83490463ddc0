"""Answers in ToolRL's format."""

import json


def call(name, **parameters):
    return {"name": name, "parameters": parameters}


def answer(*calls, think="I think.", response=None):
    """Return a correctly formatted answer; calls may be any JSON."""
    parts = [f"<think>{think}</think>"]
    parts += (
        ["<tool_call>\n" + "\n".join(map(json.dumps, calls)) + "\n</tool_call>"] if calls else []
    )
    parts += [f"<response>{response}</response>"] if response else []
    return "\n".join(parts)


STAY = call("stay", city="Oslo", nights=2)
CALL = answer(STAY)
RESPONSE = answer(response="No.")
BOTH = answer(STAY, response="Now.")
NEITHER = answer()
FORMS = [CALL, RESPONSE, BOTH, NEITHER]
