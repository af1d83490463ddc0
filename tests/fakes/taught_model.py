"""An adapter of `tiny` that has learned fixed answers by heart, and a server process for it."""

import json
import os
import re
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import torch

from envgym_trainer.model.adapter_files import save_adapter
from envgym_trainer.model.chat import Chat
from envgym_trainer.model.load import load_model, resolve
from envgym_trainer.model.lora import attach_lora

SYSTEM = {"role": "system", "content": "You look after the lamps."}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "look_up",
            "description": "Find a number by its name",
            "parameters": {
                "type": "object",
                "properties": {"name": {"type": "string"}, "count": {"type": "integer"}},
                "required": ["name"],
            },
        },
    },
    {
        "type": "function",
        "function": {
            "name": "set_value",
            "description": "Change a value",
            "parameters": {
                "type": "object",
                "properties": {"value": {"type": "integer"}},
                "required": ["value"],
            },
        },
    },
]


def hermes(name: str, /, **arguments) -> str:
    call = json.dumps({"name": name, "arguments": arguments})
    return f"<tool_call>\n{call}\n</tool_call>"


def user(text: str) -> list[dict]:
    return [SYSTEM, {"role": "user", "content": text}]


def after(text: str, name: str, arguments: dict, result: str) -> list[dict]:
    """Return the conversation after one call of the model and the answer of the tool."""
    call = {
        "id": "call_1",
        "type": "function",
        "function": {"name": name, "arguments": json.dumps(arguments)},
    }
    return [
        *user(text),
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": result},
    ]


LESSONS = {
    "one": (user("call one tool"), hermes("look_up", name="box", count=7)),
    "done": (after("call one tool", "look_up", {"name": "box", "count": 7}, "42"), "It is 42."),
    "two": (
        user("call two tools"),
        f"Both.\n{hermes('look_up', name='x')}\n{hermes('set_value', value=5)}",
    ),
    "broken": (
        user("call a tool wrong"),
        '<tool_call>\n{"name": "look_up", "arguments": {\n</tool_call>',
    ),
    "thought": (user("think first"), "<think>\nWhich number?\n</think>\n\nThe number is 3."),
    "count": (user("count to ten"), "one two three four five six seven eight nine ten"),
}
"""Conversation and answer of each lesson. All have the same tools."""


def teach(folder: Path) -> Path:
    """Write an adapter of `tiny` whose greedy answers are those of the lessons."""
    torch.manual_seed(0)
    base, tokenizer = load_model("tiny", device="cpu")
    chat = Chat(tokenizer, model=base)
    adapted = attach_lora(base, rank=16, alpha=32, seed=0)
    rows = [
        (chat.render(with_objects(messages), TOOLS), chat.answer(text))
        for messages, text in LESSONS.values()
    ]
    weights = [weight for weight in adapted.parameters() if weight.requires_grad]
    optimizer = torch.optim.Adam(weights, lr=1e-2)
    for _ in range(300):
        losses = answer_losses(adapted, rows)
        if losses.max().item() < 0.01:
            break
        optimizer.zero_grad()
        losses.sum().backward()
        optimizer.step()
    else:
        raise AssertionError(f"not learned: {losses.tolist()}")
    plain, _ = load_model("tiny", device="cpu")
    return save_adapter(
        adapted,
        tokenizer,
        chat,
        folder,
        base=plain,
        base_id=resolve("tiny").public_id,
        sampling={"temperature": 0.0, "max_turn_tokens": 64, "max_context_tokens": 1024},
        card=lambda gap: "# Lamps\n",
        prompt={"dialects": ["hermes"]},
    )


def with_objects(messages: list[dict]) -> list[dict]:
    """Return messages as a chat template reads them: arguments are objects."""
    return json.loads(json.dumps(messages), object_hook=_with_object)


def _with_object(plain: dict) -> dict:
    if isinstance(plain.get("arguments"), str):
        return plain | {"arguments": json.loads(plain["arguments"])}
    return plain


def answer_losses(model, rows: list[tuple[list[int], list[int]]]) -> torch.Tensor:
    """Return the mean loss of each answer's tokens, shape (rows,)."""
    longest = max(len(prompt) + len(answer) for prompt, answer in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    for row, (prompt, answer) in enumerate(rows):
        ids[row, : len(prompt) + len(answer)] = torch.tensor(prompt + answer)
    logits = model(input_ids=ids).logits  # (rows, T, V)
    return torch.stack(
        [
            torch.nn.functional.cross_entropy(
                logits[row, len(prompt) - 1 : len(prompt) + len(answer) - 1], torch.tensor(answer)
            )
            for row, (prompt, answer) in enumerate(rows)
        ]
    )


@contextmanager
def served(*arguments: str, env: dict[str, str] | None = None, seconds: float = 180.0):
    """Run `envgym serve` as a process; yield it with its URL. It is killed at the end."""
    command = [sys.executable, "-m", "envgym", "serve", *arguments, "--port", "0"]
    process = subprocess.Popen(
        command,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"} | (env or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process, _url(process, seconds)
    finally:
        process.kill()
        process.communicate()


def _url(process: subprocess.Popen, seconds: float) -> str:
    started = time.monotonic()
    lines = []
    while time.monotonic() - started < seconds and (line := process.stdout.readline()):
        lines.append(line)
        if found := re.match(r"serving '.*' at (http://\S+)/v1", line):
            return found[1]
    raise AssertionError(f"the server did not start:\n{''.join(lines)}")
