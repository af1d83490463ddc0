"""Measure what `envgym serve` costs beside the in-process loop.

    python benchmarks/endpoint.py             # a quarter of an hour on two cores
    python benchmarks/endpoint.py --quick     # checks that it runs

Both sides play the same conversations of three turns with the same engine, greedily, with 32
sampled tokens per call. The loop calls the engine in its own process, as an evaluation does. The
endpoint is a server process, and its clients are threads of this one, so both share the cores. One
client shows the cost of a call, 16 clients the cost of a batch. Rounds alternate the order; medians
are shown, with the range of the ratio.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import get_args

from steps.endpoint import Load, Side, Timed
from steps.work import in_a_process, parser

LOADS = (Load("loop", 1, conversations=6), Load("loop", 16))
QUICK = (Load("loop", 1, conversations=1, turn_tokens=4), Load("loop", 2, turn_tokens=4))
Round = dict[str, Timed]


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser(__doc__).parse_args(argv)
    alone, together = QUICK if arguments.quick else LOADS
    rounds = 1 if arguments.quick else arguments.rounds
    model, threads = arguments.model, arguments.threads
    print(call_line([play(alone, number, model, threads) for number in range(rounds)]), flush=True)
    batches = [play(together, number, model, threads) for number in range(rounds)]
    print(batch_line(together.clients, batches), flush=True)
    return 0


def play(load: Load, number: int, model: str, threads: int) -> Round:
    """Measure both sides, in an order that alternates with the number of the round."""
    order = get_args(Side)[:: -1 if number % 2 else 1]
    return {
        side: Timed(
            **in_a_process(
                "steps.endpoint",
                json.dumps(asdict(replace(load, side=side))),
                model,
                threads=threads,
            )
        )
        for side in order
    }


def call_line(rounds: Sequence[Round]) -> str:
    medians = {
        side: [1000 * statistics.median(each[side].calls) for each in rounds]
        for side in get_args(Side)
    }
    costs = sorted(
        served - plain for plain, served in zip(medians["loop"], medians["endpoint"], strict=True)
    )
    return (
        f"1 client:   {statistics.median(medians['loop']):8.1f} ms a call in the loop, "
        f"{statistics.median(medians['endpoint']):8.1f} ms through the endpoint: "
        f"{statistics.median(costs):+.2f} ms ({costs[0]:+.2f} to {costs[-1]:+.2f}), "
        "goal at most 3 ms"
    )


def batch_line(clients: int, rounds: Sequence[Round]) -> str:
    rates = {
        side: [each[side].tokens / each[side].seconds for each in rounds] for side in get_args(Side)
    }
    ratios = sorted(
        served / plain for plain, served in zip(rates["loop"], rates["endpoint"], strict=True)
    )
    return (
        f"{clients} clients: {statistics.median(rates['loop']):8.1f} tokens/s in the loop, "
        f"{statistics.median(rates['endpoint']):8.1f} tokens/s through the endpoint: ratio "
        f"{statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f}), "
        "goal at least 0.95"
    )


if __name__ == "__main__":
    raise SystemExit(main())
