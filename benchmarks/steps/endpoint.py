"""One side of the endpoint's benchmark: the same conversations in this process or over HTTP.

Every call samples the same number of tokens, greedily, and no token ends it earlier. A call's time
includes the rendering of its messages.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Literal

from envgym.messages import Message

Side = Literal["loop", "endpoint"]
SYSTEM = "You look after the meeting rooms of a company. " * 8
Play = Callable[[int], list[float]]
"""Plays one conversation; returns the seconds of each call."""


@dataclass(frozen=True, slots=True)
class Load:
    """Conversations of one measurement."""

    side: Side
    clients: int
    conversations: int = 2
    """Number of conversations of each client, one after the other."""
    turns: int = 3
    turn_tokens: int = 32
    """Sampled tokens of each call."""


@dataclass(frozen=True, slots=True)
class Timed:
    """Times of one side."""

    calls: list[float] = field(default_factory=list)
    """Wall seconds of each call."""
    seconds: float = 0.0
    tokens: int = 0
    """Sampled tokens."""


def question(number: int, turn: int) -> str:
    return f"Question {turn} of visitor {number}: which room is free at {number % 12} o'clock?"


@contextmanager
def loop(model: str, load: Load) -> Iterator[Play]:
    """Play with the in-process engine, as an evaluation does."""
    from envgym_trainer.inference import SamplingSettings
    from envgym_trainer.inference.in_process.engine import InProcessEngine
    from envgym_trainer.model.chat import Chat
    from envgym_trainer.model.load import load_model

    loaded, tokenizer = load_model(model, device="cpu")
    sampling = SamplingSettings(0.0, load.turn_tokens, stop_ids=frozenset())

    def play(number: int) -> list[float]:
        times = []
        started = time.perf_counter()
        opening = [Message("system", SYSTEM), Message("user", question(number, 0))]
        dialogue = engine.open_dialogue(opening, (), seed=0, sampling=sampling)
        for turn in range(load.turns):
            if turn:
                started = time.perf_counter()
                dialogue.observe([Message("user", question(number, turn))])
            dialogue.reply()
            times.append(time.perf_counter() - started)
        dialogue.close()
        return times

    with InProcessEngine(loaded, Chat(tokenizer, model=loaded), max_context=2048) as engine:
        yield play


@contextmanager
def endpoint(model: str, load: Load) -> Iterator[Play]:
    """Play with `envgym serve` in a process of its own."""
    command = [sys.executable, "-m", "envgym", "serve", model, "--name", "m", "--port", "0"]
    command += ["--max-context-tokens", "2048"]
    server = subprocess.Popen(
        command, env=os.environ | {"PYTHONUNBUFFERED": "1"}, stdout=subprocess.PIPE, text=True
    )

    def play(number: int) -> list[float]:
        connection = http.client.HTTPConnection(address, timeout=600)
        messages = [{"role": "system", "content": SYSTEM}]
        times = []
        for turn in range(load.turns):
            started = time.perf_counter()
            messages.append({"role": "user", "content": question(number, turn)})
            messages.append(_answer(connection, messages, load.turn_tokens))
            times.append(time.perf_counter() - started)
        connection.close()
        return times

    try:
        assert server.stdout is not None
        lines = (re.match(r"serving 'm' at http://(\S+)/v1", line) for line in server.stdout)
        address = next(found[1] for found in lines if found)
        yield play
    finally:
        server.kill()
        server.communicate()


def _answer(
    connection: http.client.HTTPConnection, messages: list[dict[str, str]], tokens: int
) -> dict[str, str]:
    body = {
        "model": "m",
        "messages": messages,
        "max_tokens": tokens,
        "temperature": 0,
        "ignore_eos": True,
    }
    headers = {"Content-Type": "application/json"}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
    answer = json.loads(connection.getresponse().read())
    assert answer["usage"]["completion_tokens"] == tokens, answer
    return {"role": "assistant", "content": answer["choices"][0]["message"]["content"]}


def measure(model: str, load: Load) -> Timed:
    """Play the conversations of all clients at once, after one that is not counted."""
    sides = {"loop": loop, "endpoint": endpoint}
    with sides[load.side](model, load) as play, ThreadPoolExecutor(load.clients) as pool:
        play(999)
        started = time.perf_counter()
        jobs = [
            pool.submit(lambda n=n: [play(n + 100 * i) for i in range(load.conversations)])
            for n in range(load.clients)
        ]
        calls = [seconds for job in jobs for played in job.result() for seconds in played]
        seconds = time.perf_counter() - started
    return Timed(calls, seconds, len(calls) * load.turn_tokens)


if __name__ == "__main__":
    print(json.dumps(asdict(measure(sys.argv[2], Load(**json.loads(sys.argv[1]))))))
