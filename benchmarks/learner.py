"""Measure the gain of the prefix tree in training, against padded rows, over a grid of sizes.

    python benchmarks/learner.py                # an hour on two cores
    python benchmarks/learner.py --only 512,128,8
    python benchmarks/learner.py --quick        # checks that it runs

One update of one group. SmolLM2-135M in float32 with LoRA of rank 16 on all linear layers. All
responses have the same length, which is the best case for padded rows. Each update runs in a
separate process, and layouts alternate; medians are shown. Both layouts split forward passes at
4,096 tokens, and their gradients are equal (last column: relative difference of the norms).
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import get_args

from steps.learn import Group, Update
from steps.work import in_a_process, parser

from envgym_trainer.learner.learner import Layout

GRID = [(256, 64, 8), (512, 64, 8), (512, 128, 8), (512, 256, 8), (1024, 128, 8), (512, 128, 16)]
"""Prompt tokens P, response tokens R and group size G."""
GOALS = {(512, 128, 8): 3.5}


def run(group: Group, model: str, threads: int) -> Update:
    return Update(
        **in_a_process(
            "steps.learn", json.dumps(asdict(group)), model, str(threads), threads=threads
        )
    )


def row(size: tuple[int, int, int], rounds: Sequence[dict[str, Update]]) -> str:
    middle = lambda layout, name: statistics.median(getattr(each[layout], name) for each in rounds)
    ratios = sorted(each["flat"].cpu_seconds / each["tree"].cpu_seconds for each in rounds)
    goal = f"at least {GOALS[size]:g}" if size in GOALS else ""
    tokens = middle("flat", "forward_tokens") / middle("tree", "forward_tokens")
    memory = middle("flat", "peak_mb") / max(middle("tree", "peak_mb"), 1.0)
    gap = max(abs(each["flat"].grad_norm / each["tree"].grad_norm - 1) for each in rounds)
    spread = f"({ratios[0]:.2f} to {ratios[-1]:.2f})"
    return (
        f"{size[0]:6}{size[1]:6}{size[2]:4}"
        f"{middle('flat', 'cpu_seconds'):12.1f}{middle('tree', 'cpu_seconds'):9.1f}"
        f"{statistics.median(ratios):8.2f} {spread:16}{goal:14}"
        f"{tokens:8.2f}{memory:10.2f}{gap:12.1e}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    options = parser(__doc__)
    options.add_argument("--only", metavar="P,R,G", help="one line of the table, such as 512,128,8")
    arguments = options.parse_args(argv)
    head = (
        f"{'P':>6}{'R':>6}{'G':>4}{'padded s':>12}{'tree s':>9}{'ratio':>8} {'range':16}"
        f"{'goal':14}{'tokens':>8}{'memory':>10}"
    )
    print(f"{head}{'gradient':>12}")
    for size in [(24, 8, 4)] if arguments.quick else GRID:
        if arguments.only not in (None, ",".join(map(str, size))):
            continue
        group = Group("tree", *size)
        rounds = []
        for number in range(1 if arguments.quick else arguments.rounds):
            order = get_args(Layout)[:: -1 if number % 2 else 1]
            rounds.append(
                {
                    each: run(replace(group, layout=each), arguments.model, arguments.threads)
                    for each in order
                }
            )
        print(row(size, rounds), flush=True)
    print(
        "\nCPU seconds of one update; tokens, memory: padded over tree, with the peak memory "
        "above the loaded model"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
