"""Measure how the cost of a step grows with groups, turns, prompt and model. Prints exponents.

    python benchmarks/scale.py                  # an hour on two cores: every size three times
    python benchmarks/scale.py --quick          # checks that it runs

Each step is a whole step on forced work, as in `step_vs_trl.py`. One size grows; the rest stays at
2 tasks x 4 episodes x 2 turns x 20 sampled tokens, a prompt of 300 tokens and SmolLM2-135M. Its
first layers are used as smaller models. The exponent is the slope of log median cost over log size,
by least squares. 1 means proportional cost.
"""

from __future__ import annotations

import math
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from steps.work import Measured, Work, in_a_process, parser

BASE = Work(tasks=2, group=4, turns=2, turn_tokens=20, tool_tokens=40, prompt_tokens=300)
GROWS: dict[str, tuple[Sequence[int], Callable[[int], Work]]] = {
    "tasks": ((1, 2, 4, 8), lambda n: replace(BASE, tasks=n)),
    "group": ((2, 4, 8, 16), lambda n: replace(BASE, group=n)),
    "turns": ((1, 2, 4, 8), lambda n: replace(BASE, turns=n)),
    "prompt tokens": ((150, 300, 600, 1200), lambda n: replace(BASE, prompt_tokens=n)),
    "layers": ((5, 10, 20, 30), lambda n: BASE),
}
COLUMNS: dict[str, Callable[[Measured], float]] = {
    "CPU s": lambda m: m.cpu_seconds,
    "sampling": lambda m: m.sampling_cpu_seconds,
    "training": lambda m: m.cpu_seconds - m.sampling_cpu_seconds,
    "peak MB": lambda m: m.peak_mb,
}


def exponent(sizes: Sequence[int], costs: Sequence[float]) -> float:
    """Return the slope of log cost over log size."""
    return statistics.linear_regression(
        [math.log(size) for size in sizes], [math.log(cost) for cost in costs]
    ).slope


def shallow(model: Path, layers: int, folder: Path) -> str:
    """Write a copy of the model with its first layers only. Return its path."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    made = folder / str(layers)
    if not made.exists():
        whole = AutoModelForCausalLM.from_pretrained(model, num_hidden_layers=layers)
        whole.save_pretrained(made)
        AutoTokenizer.from_pretrained(model).save_pretrained(made)
    return str(made)


def main(argv: Sequence[str] | None = None) -> int:
    options = parser(__doc__, rounds=3)
    options.add_argument("--only", choices=GROWS, help="print one of the tables only")
    arguments = options.parse_args(argv)
    from envgym_trainer.model.load import resolve

    model = resolve(arguments.model).path
    with tempfile.TemporaryDirectory() as folder:
        for name, (sizes, make) in GROWS.items():
            if arguments.only not in (None, name):
                continue
            sizes = sizes[:2] if arguments.quick else sizes
            where = {
                size: shallow(model, size, Path(folder)) if name == "layers" else str(model)
                for size in sizes
            }
            work = {
                size: replace(make(size), turn_tokens=2) if arguments.quick else make(size)
                for size in sizes
            }
            found: dict[int, list[Measured]] = {size: [] for size in sizes}
            for number in range(1 if arguments.quick else arguments.rounds):
                for size in sizes[:: -1 if number % 2 else 1]:
                    done = in_a_process(
                        "steps.ours",
                        work[size].to_json(),
                        where[size],
                        str(arguments.threads),
                        threads=arguments.threads,
                    )
                    found[size].append(Measured(**done))
            print(f"{name:>14}" + "".join(f"{column:>12}" for column in COLUMNS))
            costs = {
                column: [statistics.median(map(read, found[size])) for size in sizes]
                for column, read in COLUMNS.items()
            }
            for row, size in enumerate(sizes):
                print(f"{size:14}" + "".join(f"{costs[column][row]:12.1f}" for column in COLUMNS))
            print(
                f"{'exponent':>14}"
                + "".join(f"{exponent(sizes, costs[column]):12.2f}" for column in COLUMNS)
                + "\n",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
