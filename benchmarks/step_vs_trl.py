"""Compare a whole GRPO step with TRL's on equal work. Prints ratios with their goals.

    pip install -e '.[train,parity]'
    python benchmarks/step_vs_trl.py                    # an hour on two cores: five rounds
    python benchmarks/step_vs_trl.py --tool-seconds 0.2
    python benchmarks/step_vs_trl.py --quick            # checks that it runs

A step is 2 tasks x 8 episodes x 3 turns x 60 sampled tokens, with a prompt of 600 tokens and 40
tokens of tool result between turns. The model is SmolLM2-135M in float32 with LoRA of rank 16 on
all linear layers. Both sides sample exactly these tokens at temperature 1 and make one update.
Imports, loading and the creation of TRL's trainer are not timed. Rounds alternate the order, each
side in a separate process; medians are shown, with the range of the ratio.

    step        sampling and update, wall seconds. CPU: summed over all threads
    sampling    TRL: `_generate`. envgym: `Trainer.sample`, with the adapter's copy to the sampler
    training    the rest
    peak        maximum resident memory
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from steps.work import Measured, Work, in_a_process, parser

OURS = "steps.ours"
PEER = "steps.peer"
BATCHING = "steps.peer batching"
QUICK = Work(tasks=1, group=4, turns=2, turn_tokens=8, tool_tokens=40, prompt_tokens=200)


def run(side: str, work: Work, model: str, threads: int) -> Measured:
    module, *options = side.split()
    return Measured(
        **in_a_process(module, work.to_json(), model, str(threads), *options, threads=threads)
    )


def table(rounds: Sequence[dict[str, Measured]], goals: dict[str, float]) -> list[str]:
    sides = list(rounds[0])
    columns = {
        "step s": lambda m: m.seconds,
        "CPU s": lambda m: m.cpu_seconds,
        "sampling s": lambda m: m.sampling_seconds,
        "sampling CPU s": lambda m: m.sampling_cpu_seconds,
        "training CPU s": lambda m: m.cpu_seconds - m.sampling_cpu_seconds,
        "peak MB": lambda m: m.peak_mb,
        "sampled": lambda m: m.sampled_tokens,
        "tokens": lambda m: m.all_tokens,
    }
    rows = [f"{'median of ' + str(len(rounds)):26}" + "".join(f"{name:>16}" for name in columns)]
    for side in sides:
        values = [
            statistics.median(read(each[side]) for each in rounds) for read in columns.values()
        ]
        rows.append(f"{rounds[0][side].side:26}" + "".join(f"{value:16.1f}" for value in values))
    rows.append("")
    for side in sides[1:]:
        for name in (
            "step s",
            "CPU s",
            "sampling s",
            "sampling CPU s",
            "training CPU s",
            "peak MB",
        ):
            ratios = sorted(
                columns[name](each[side]) / columns[name](each[OURS]) for each in rounds
            )
            goal = f"   goal {goals[name]:g}" if name in goals and side == PEER else ""
            spread = f"({ratios[0]:.2f} to {ratios[-1]:.2f})"
            rows.append(
                f"{rounds[0][side].side} / envgym, {name:16}"
                f"{statistics.median(ratios):6.2f} x  {spread}{goal}"
            )
    versions = {
        name: version for each in rounds[0].values() for name, version in each.versions.items()
    }
    rows += ["", ", ".join(f"{name} {version}" for name, version in versions.items())]
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    options = parser(__doc__)
    options.add_argument(
        "--tool-seconds", type=float, default=0.0, help="seconds of each tool call"
    )
    options.add_argument(
        "--batching", action="store_true", help="also TRL on transformers' continuous batching"
    )
    options.add_argument(
        "--json", type=Path, metavar="FILE", help="also write the figures of each round to FILE"
    )
    arguments = options.parse_args(argv)
    from envgym_trainer.model.load import resolve

    model = str(resolve(arguments.model).path)
    work = replace(QUICK if arguments.quick else Work(), tool_seconds=arguments.tool_seconds)
    sides = [OURS, PEER, *([BATCHING] if arguments.batching else [])]
    rounds: list[dict[str, Measured]] = []
    for number in range(1 if arguments.quick else arguments.rounds):
        found = {}
        for side in sides[:: -1 if number % 2 else 1]:
            print(f"round {number + 1}: {side}", file=sys.stderr, flush=True)
            found[side] = run(side, work, model, arguments.threads)
            print(f"    {found[side].to_json()}", file=sys.stderr, flush=True)
        rounds.append({side: found[side] for side in sides})
        if arguments.json:
            plain = [
                {name: json.loads(each.to_json()) for name, each in one.items()} for one in rounds
            ]
            arguments.json.write_text(json.dumps(plain, indent=2) + "\n", encoding="utf-8")
    goals = (
        {"step s": 8.0}
        if arguments.tool_seconds
        else {"step s": 6.0, "CPU s": 6.0, "sampling s": 7.0, "peak MB": 2.5}
    )
    print("\n".join(table(rounds, goals)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
