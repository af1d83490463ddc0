"""Measure the speed and cost of the sandboxes. Prints each figure with its goal.

    python benchmarks/sandbox.py                    # some minutes; needs a container engine
    python benchmarks/sandbox.py --quick --json figures.json

The work is the CRM of `envs/`: training tasks with 5 oracle calls, 2 of which write, eight episodes
of a task as in a GRPO group, then the state diff for the reward. Every figure is measured once a
round, in alternating order, and the median of the rounds is shown. p50 and p99 are over a round's
operations.

    tool overhead          wall time of a call minus the time inside the tool; one session
    state reset            wall time of a reset in one session of `state`; the state is prebuilt
    open at 8 at once      wall time until an episode can begin, with eight threads
    strict open            level `container`: without a ready box, and with a prefetched box
    episodes/s and core    1000 / CPU ms of an episode: host process, boxes (their control groups)
                           and engine (dockerd, containerd and helpers, from /proc if readable;
                           includes work for others)
    strict over fork       ratio of these CPU times
    memory of a session    growth of a box with 16 open sessions, divided by 16; for a container,
                           its new control group, and its helper process if /proc has it
    stuck tool             wall time after the deadline until a tool that never ends is stopped
    docker exec            exec events of the engine during the measurements above
    peers                  `docker run` an episode and `docker exec` a call, by the Docker SDK; the
                           same tools on an existing database file, without a diff
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sandboxes.measures import QUICK, Bench, Sizes
from sandboxes.peers import Values

from envgym.errors import EnvgymError, PrerequisiteError


@dataclass(frozen=True, slots=True)
class Goal:
    """Limit of one figure."""

    name: str
    unit: str
    limit: float
    is_most: bool = True
    """Whether the limit is a maximum. Otherwise it is a minimum."""

    def is_met(self, value: float) -> bool:
        return value <= self.limit if self.is_most else value >= self.limit


GOALS = (
    Goal("tool overhead p50, fork", "ms", 1),
    Goal("tool overhead p99, fork", "ms", 10),
    Goal("state reset p50", "ms", 2),
    Goal("open p50, 8 at once, fork", "ms", 20),
    Goal("open p99, 8 at once, fork", "ms", 100),
    Goal("open p50, 8 at once, namespaces", "ms", 75),
    Goal("open p99, 8 at once, namespaces", "ms", 250),
    Goal("strict open p50, prefetch 0", "ms", 1000),
    Goal("strict open p50, from prefetch", "ms", 5),
    Goal("episodes/s and core, state", "", 200, is_most=False),
    Goal("episodes/s and core, fork", "", 50, is_most=False),
    Goal("episodes/s and core, namespaces", "", 30, is_most=False),
    Goal("episodes/s and core, container", "", 2, is_most=False),
    Goal("CPU of strict over fork", "x", 25, is_most=False),
    Goal("memory of a session, fork", "MiB", 5),
    Goal("memory of a container", "MiB", 25),
    Goal("stuck tool killed p99", "ms", 50),
    Goal("docker exec on the tool path", "", 0),
)


def measure(bench: Bench, say: Callable[[str], None]) -> Values:
    """Return the median of each figure over the rounds."""
    found: dict[str, list[float]] = defaultdict(list)
    measures: list[tuple[str, Callable[[], Values]]] = [
        *(
            (level, lambda level=level: bench.level(level))
            for level in ("state", "fork", "namespaces")
        ),
        ("reset", bench.state),
        ("strict", bench.strict),
        ("strict opens", bench.strict_opens),
        ("memory", bench.memory),
        ("stuck tool", bench.stuck),
        ("peers", bench.peers),
    ]
    since = time.time()
    for number in range(bench.sizes.rounds):
        for name, work in measures[:: -1 if number % 2 else 1]:
            say(f"round {number + 1} of {bench.sizes.rounds}: {name}")
            for key, value in work().items():
                found[key].append(value)
    values = {name: statistics.median(each) for name, each in found.items()}
    ratios = [
        strict / fork
        for strict, fork in zip(found["cpu container"], found["cpu fork"], strict=True)
    ]
    values["CPU of strict over fork"] = statistics.median(ratios)
    values["docker exec on the tool path"] = bench.execs(since, time.time())
    return values


def table(values: Values) -> list[str]:
    rows = [f"{'figure':34}{'ours':>10}  {'goal':16}met"]
    for goal in GOALS:
        value = values[goal.name]
        word = "at most" if goal.is_most else "at least"
        limit = f"{word} {goal.limit:g} {goal.unit}".strip()
        rows.append(
            f"{goal.name:34}{value:10.4g}  {limit:16}{'yes' if goal.is_met(value) else 'NO'}"
        )
    ours_call = values["tool overhead p50, fork"]
    peer_cpu = values["peer cpu"]
    rows += [
        "",
        (
            "a container that does nothing, started and removed: "
            f"{values['a container alone']:.0f} ms of the engine's CPU,"
        ),
        (
            "so no strict level can reach more than "
            f"{1000 / values['a container alone']:.1f} episodes/s and core here"
        ),
        "",
        (
            "peers, one docker run per episode and one docker exec per call, beside ours with "
            "isolation fork:"
        ),
        (
            f"  a call, ms                {values['peer call ms']:8.0f}{ours_call:8.2f}  "
            f"{values['peer call ms'] / ours_call:.0f} x"
        ),
        (
            f"  CPU of an episode, ms     {peer_cpu:8.0f}{values['cpu fork']:8.1f}  "
            f"{peer_cpu / values['cpu fork']:.0f} x"
        ),
    ]
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="one round of a few episodes, to check that it runs",
    )
    parser.add_argument("--backend", choices=["docker", "podman"], default="docker")
    parser.add_argument("--rounds", type=int, help="number of rounds (default: 5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    arguments = parser.parse_args(argv)
    sizes = QUICK if arguments.quick else Sizes(rounds=arguments.rounds or Sizes.rounds)
    try:
        bench = Bench(arguments.backend, sizes)
        values = measure(bench, lambda text: print(text, file=sys.stderr, flush=True))
    except EnvgymError as error:
        print(f"sandbox: {error}", file=sys.stderr)
        return 3 if isinstance(error, PrerequisiteError) else 1
    print("\n".join(table(values)))
    if not bench.engine_read:
        print("The engine's CPU time cannot be read here, so all CPU figures exclude it.")
    if arguments.json:
        met = {goal.name: goal.is_met(values[goal.name]) for goal in GOALS}
        arguments.json.write_text(
            json.dumps({"values": values, "met": met}, indent=2) + "\n", encoding="utf-8"
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
