"""Equal work for both trainers: texts with a known number of tokens, and an environment.

Each episode has the same number of turns and each turn the same number of sampled tokens, for any
model. Texts consist of words of one token each. The tokens that a chat template adds
are subtracted first.
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
    """Number of sampled tokens in each turn."""
    tool_tokens: int = 40
    """Number of tokens between two turns, including the chat template's."""
    prompt_tokens: int = 600
    tool_seconds: float = 0.0
    """Seconds of each tool call."""
    rank: int = 16
    micro_batch: int = 4
    """Number of episodes in one forward pass of TRL's training. 8 of these need 15 GB."""
    device: str = "cpu"
    dtype: str = "float32"

    @property
    def episodes(self) -> int:
        return self.tasks * self.group

    def to_json(self) -> str:
        return json.dumps(asdict(self))


@dataclass
class Measured:
    """Measurements of one side in one step."""

    side: str
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    sampling_seconds: float = 0.0
    sampling_cpu_seconds: float = 0.0
    prompt_tokens: float = 0.0
    """Prompt tokens of an episode."""
    sampled_tokens: int = 0
    all_tokens: int = 0
    """Tokens of all episodes of the step: prompts, samples and tool results."""
    peak_mb: float = 0.0
    """Maximum resident memory of the process in MB, including the model."""
    versions: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        return json.dumps(asdict(self))


def words(count: int, rng: random.Random) -> str:
    """Return a text of `count` tokens."""
    return "".join(f" {rng.choice(WORDS)}" for _ in range(max(1, count)))


class Forced(gym.Env):
    """Environment with a fixed number of turns and of tokens per turn. Rewards vary by episode."""

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
    """Wall and CPU seconds of this process since creation. Waits for pending work of a GPU."""

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
    """Return the peak memory of this process in MB, or the peak allocation on a GPU."""
    if device == "cpu":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return sys.modules["torch"].cuda.max_memory_allocated() / 2**20


def parser(description: str | None, *, rounds: int = 5) -> argparse.ArgumentParser:
    """Create the parser of options that all trainer benchmarks share."""
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument(
        "--quick", action="store_true", help="one round of little work, to check that it runs"
    )
    made.add_argument(
        "--rounds",
        type=int,
        default=rounds,
        help=f"measurements of each figure (default: {rounds})",
    )
    made.add_argument(
        "--model",
        default="smollm2-135m-instruct",
        help="a built-in model name or a directory",
    )
    made.add_argument(
        "--threads", type=int, default=os.cpu_count() or 1, help="threads of torch (default: all)"
    )
    return made


def in_a_process(module: str, *arguments: str, threads: int) -> dict[str, Any]:
    """Run `python -m module ...` with this number of threads. Return the JSON of its last line."""
    paths = [HERE, HERE.parent, HERE.parent / "trainer"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths))}
    environment |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments], env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{module} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])
