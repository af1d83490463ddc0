"""Measure the sampler's speed beside `generate` and beside this machine's limit.

    python benchmarks/engine.py             # an hour on two cores: five rounds, separate processes
    python benchmarks/engine.py --quick     # checks that it runs

SmolLM2-135M in float32 with LoRA of rank 16; prompts of 600 tokens shared by groups of 8; 60
sampled tokens per turn and 40 tokens of tool result between turns. `generate` is transformers'
function with the adapter in place, and reads the whole history again at each turn, as TRL does. The
limit is the time of the tokens' matrix products alone, in the same batches. Rounds alternate the
order; medians are shown, with the range of the ratio. The engine's time includes its start, which
happens once in a run. The last line is the engine's idle time with tools of 0.2 s.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import get_args

from steps.sample import Load, Sampled, Side
from steps.work import in_a_process, parser

GRID = [
    Load("engine", dialogues, turns=turns)
    for dialogues, turns in ((8, 1), (16, 1), (64, 1), (16, 3))
]
GOALS = {(16, 3): 7.0}
SLOW_TOOLS = Load("engine", 16, tool_seconds=0.2)
QUICK = Load("engine", 4, group=2, turns=2, turn_tokens=4, prompt_tokens=120)


def run(load: Load, model: str, threads: int) -> Sampled:
    return Sampled(
        **in_a_process(
            "steps.sample", json.dumps(asdict(load)), model, str(threads), threads=threads
        )
    )


def row(load: Load, rounds: Sequence[dict[str, Sampled]]) -> str:
    cpu = lambda side: statistics.median(each[side].cpu_seconds for each in rounds)
    rate = lambda side: statistics.median(each[side].tokens / each[side].seconds for each in rounds)
    ratio = lambda slow, fast, name: sorted(
        getattr(each[slow], name) / getattr(each[fast], name) for each in rounds
    )
    by_cpu = ratio("generate", "engine", "cpu_seconds")
    by_wall = ratio("generate", "engine", "seconds")
    memory = statistics.median(ratio("generate", "engine", "peak_mb"))
    limit = statistics.median(ratio("products", "engine", "cpu_seconds"))
    goal = (
        f"at least {GOALS[load.dialogues, load.turns]:g}"
        if (load.dialogues, load.turns) in GOALS
        else ""
    )
    spread = f"({by_cpu[0]:.2f} to {by_cpu[-1]:.2f})"
    return (
        f"{load.dialogues:9}{load.turns:6}{rate('generate'):12.1f}"
        f"{rate('engine'):9.1f}{cpu('generate'):12.1f}{cpu('engine'):9.1f}"
        f"{statistics.median(by_cpu):10.2f} {spread:16}{goal:12}"
        f"{statistics.median(by_wall):6.2f}{memory:9.2f}{100 * limit:10.0f} %"
    )


def main(argv: Sequence[str] | None = None) -> int:
    options = parser(__doc__)
    options.add_argument(
        "--only", metavar="DIALOGUES,TURNS", help="one line of the table, such as 16,3, or tools"
    )
    arguments = options.parse_args(argv)
    print(f"{'':15}{'tokens/s':>21}{'CPU seconds':>21}{'ratio':>10}")
    print(
        f"{'dialogues':>9}{'turns':>6}{'generate':>12}{'engine':>9}"
        f"{'generate':>12}{'engine':>9}{'CPU':>10}"
        f" {'range':16}{'goal':12}{'wall':>6}{'memory':>9}{'of limit':>12}"
    )
    for load in [QUICK] if arguments.quick else GRID:
        if arguments.only not in (None, f"{load.dialogues},{load.turns}"):
            continue
        rounds = []
        for number in range(1 if arguments.quick else arguments.rounds):
            order = get_args(Side)[:: -1 if number % 2 else 1]
            rounds.append(
                {
                    side: run(replace(load, side=side), arguments.model, arguments.threads)
                    for side in order
                }
            )
        print(row(load, rounds), flush=True)
    if not arguments.quick and arguments.only in (None, "tools"):
        idle = sorted(
            run(SLOW_TOOLS, arguments.model, arguments.threads).idle
            for _ in range(arguments.rounds)
        )
        spread = f"({100 * idle[0]:.1f} to {100 * idle[-1]:.1f})"
        print(
            f"\n16 dialogues, 3 turns, tools of 0.2 s: "
            f"idle {100 * statistics.median(idle):.1f} % {spread}, goal at most 10 %"
        )
    print("\nratios: generate over engine; memory: of the peaks above the loaded model")
    print("of limit: CPU time of the matrix products alone over the engine's")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
