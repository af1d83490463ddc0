"""The work that both trainers are given: texts of a known number of tokens, and an environment that answers with them.

Each episode has the same number of turns, each turn the same number of sampled tokens, whatever the model says. Texts are made of
words that are one token each, so both sides' prompts and answers have the lengths that were asked for; what a chat template adds
is taken off first.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym

HERE = Path(__file__).parents[1]

WORDS = (
    "time",
    "year",
    "people",
    "way",
    "day",
    "man",
    "thing",
    "woman",
    "life",
    "child",
    "world",
    "school",
    "state",
    "family",
    "student",
    "group",
    "country",
    "problem",
    "hand",
    "part",
    "place",
    "case",
    "week",
    "company",
    "system",
    "program",
    "question",
    "work",
    "government",
    "number",
    "night",
    "point",
    "home",
    "water",
    "room",
    "mother",
    "area",
    "money",
    "story",
    "fact",
)


@dataclass(frozen=True, slots=True)
class Work:
    """Size of one step."""

    tasks: int = 2
    group: int = 8
    turns: int = 3
    turn_tokens: int = 60
    """Sampled in each turn."""
    tool_tokens: int = 40
    """Between two turns, the template's own included."""
    prompt_tokens: int = 600
    tool_seconds: float = 0.0
    """How long a tool takes to answer."""
    rank: int = 16
    micro_batch: int = 4
    """TRL's episodes in one forward pass of training; 8 of these need 15 GB."""
    device: str = "cpu"
    dtype: str = "float32"

    @property
    def episodes(self) -> int:
        return self.tasks * self.group

    def to_json(self) -> str:
        return json.dumps(asdict(self))


@dataclass
class Measured:
    """What one side did in one step."""

    side: str
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    sampling_seconds: float = 0.0
    sampling_cpu_seconds: float = 0.0
    prompt_tokens: float = 0.0
    """Of an episode."""
    sampled_tokens: int = 0
    all_tokens: int = 0
    """Prompts, samples and tool answers of all episodes, as they stand in the step."""
    peak_mb: float = 0.0
    """Resident memory of the process at its highest, the model's own included."""
    versions: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        return json.dumps(asdict(self))


def words(count: int, rng: random.Random) -> str:
    """So many tokens."""
    return "".join(f" {rng.choice(WORDS)}" for _ in range(max(1, count)))


class Forced(gym.Env):
    """Answers so many tokens for so many turns, then gives a reward that differs from episode to episode."""

    observation_space = gym.spaces.Text(100_000)
    action_space = gym.spaces.Text(100_000)

    def __init__(
        self,
        *,
        turns: int = 3,
        prompt_words: int = 1,
        answer_words: int = 1,
        tool_seconds: float = 0.0,
    ):
        self.turns = turns
        self.prompt_words = prompt_words
        self.answer_words = answer_words
        self.tool_seconds = tool_seconds

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.turn, rng = 0, random.Random(seed)
        self.answer = words(self.answer_words, rng)
        return words(self.prompt_words, rng), {}

    def step(self, action):
        self.turn += 1
        if self.turn == self.turns:
            return "", sum(map(ord, action)) % 100 / 100, True, False, {"success": False}
        time.sleep(self.tool_seconds)
        return self.answer, 0.0, False, False, {}


gym.register("Forced-v0", entry_point=Forced, disable_env_checker=True)


class Clock:
    """Wall and CPU seconds of this process since it was made; what a GPU has been told to do is waited for."""

    def __init__(self) -> None:
        _finish()
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def read(self) -> tuple[float, float]:
        _finish()
        return time.perf_counter() - self.wall, time.process_time() - self.cpu


def _finish() -> None:
    if (torch := sys.modules.get("torch")) is not None and torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_mb(device: str = "cpu") -> float:
    """Of this process; on a GPU what was allocated there."""
    if device == "cpu":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return sys.modules["torch"].cuda.max_memory_allocated() / 2**20


def parser(description: str | None, *, rounds: int = 5) -> argparse.ArgumentParser:
    """What every benchmark of the trainer can be told."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument(
        "--quick", action="store_true", help="one round of little work: does it run, not how fast"
    )
    made.add_argument(
        "--rounds",
        type=int,
        default=rounds,
        help=f"how often each figure is taken (default: {rounds})",
    )
    made.add_argument(
        "--model",
        default="smollm2-135m-instruct",
        help="a name that `envgym model` knows, or a directory",
    )
    made.add_argument(
        "--threads", type=int, default=os.cpu_count() or 1, help="for mathematics (default: all)"
    )
    return made


def in_a_process(module: str, *arguments: str, threads: int) -> dict[str, Any]:
    """The JSON that `python -m module ...` prints last, with so many threads for its mathematics."""
    paths = [HERE, HERE.parent, HERE.parent / "trainer"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths))}
    environment |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments], env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{module} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])
