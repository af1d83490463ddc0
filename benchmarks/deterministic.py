"""Measure the cost of `train.rollout.deterministic`: seconds of a training step with and without
it.

    python benchmarks/deterministic.py                # half an hour on two cores: five rounds
    python benchmarks/deterministic.py --quick        # checks that it runs

Each round trains one environment twice from the same seed, in alternating order. The first step
is left out because it compiles and fills caches. Prints each round's ratio of medians, and the
median ratio. A ratio of 1.10 means that deterministic runs take 10 % longer.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

SETTINGS = (
    "train.warm_start.episodes=0",
    "train.evaluation.tasks=1",
    "train.evaluation.base_tasks=0",
    "train.checks.preflight=off",
    "train.checks.hacking_signals=false",
    "train.output.adapter=none",
)


def step_seconds(env: str, settings: Sequence[str], *, deterministic: bool) -> list[float]:
    """Train a run in a process of its own. Return the seconds of each step but the first."""
    with tempfile.TemporaryDirectory() as folder:
        choice = f"train.rollout.deterministic={str(deterministic).lower()}"
        command = [sys.executable, "-m", "envgym", "train", env, *SETTINGS, *settings, choice]
        subprocess.run([*command, "--out", folder, "--name", "r"], check=True, capture_output=True)
        lines = (Path(folder) / "r" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    seconds = [seconds_of_step(json.loads(line)) for line in lines]
    return [each for each in seconds if each is not None][1:]


def seconds_of_step(line: dict[str, object]) -> float | None:
    value = line.get("time/step", line.get("step_time"))
    return float(value) if isinstance(value, (int, float)) and "loss" in line else None


def main(argv: Sequence[str] | None = None) -> int:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--env", default="crm", help="environment to train")
    options.add_argument("--model", default="smollm2-135m-instruct")
    options.add_argument("--steps", type=int, default=5)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--quick", action="store_true", help="the model tiny, one round")
    arguments = options.parse_args(argv)
    rounds = 1 if arguments.quick else arguments.rounds
    model = "tiny" if arguments.quick else arguments.model
    settings = (f"train.model={model}", f"train.steps={arguments.steps}")
    ratios = []
    for number in range(rounds):
        order = (False, True) if number % 2 == 0 else (True, False)
        found = {
            choice: step_seconds(arguments.env, settings, deterministic=choice) for choice in order
        }
        medians = {choice: statistics.median(seconds) for choice, seconds in found.items()}
        ratios.append(medians[True] / medians[False])
        print(
            f"round {number + 1}: default {medians[False]:.2f} s, "
            f"deterministic {medians[True]:.2f} s, ratio {ratios[-1]:.3f}",
            flush=True,
        )
    print(f"median ratio {statistics.median(ratios):.3f} ({min(ratios):.3f}-{max(ratios):.3f})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
