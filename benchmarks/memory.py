"""Measure the memory of training and sampling by tokens, and the time that saving memory costs.

    python benchmarks/memory.py                 # half an hour on two cores, separate processes
    python benchmarks/memory.py --quick         # checks that it runs

SmolLM2-135M in float32 with LoRA of rank 16. Training: one update of a group of 8 in one forward
pass; half of the tokens are the prompt. "all" is the default of autograd and PEFT, "little" is the
learner. The two alternate; medians are shown. Sampling: dialogues of 600 tokens, 8 of them sampled,
in groups of 8 with a shared prefix. Beside the peak stand the sizes of the keys and values and of
the sampler's weights.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, replace

from steps.learn import Group, Update
from steps.sample import Load, Sampled
from steps.work import in_a_process, parser

TOKENS = (512, 1024, 2048, 4096)
DIALOGUES = (8, 16, 64)
KEPT = ("all", "little")
GROUP = 8
OPENING = 592
SAMPLED = 8
WEIGHTS = (30 * (2 * 576 * 576 + 2 * 576 * 192 + 3 * 576 * 1536) + 49_152 * 576) * 4 / 2**20
"""Size of all linear layers and the head in MB."""


def training(tokens: int, rounds: int, run) -> str:
    group = Group("tree", tokens // 2, tokens // 16, 8)
    found: list[dict[str, Update]] = []
    for number in range(rounds):
        order = KEPT[:: -1 if number % 2 else 1]
        found.append(
            {keeps: Update(**run("steps.learn", replace(group, keeps=keeps))) for keeps in order}
        )
    peak = {keeps: statistics.median(each[keeps].peak_mb for each in found) for keeps in KEPT}
    seconds = sorted(each["little"].cpu_seconds / each["all"].cpu_seconds for each in found)
    gap = max(abs(each["little"].grad_norm / each["all"].grad_norm - 1) for each in found)
    spread = f"({seconds[0]:.2f} to {seconds[-1]:.2f})"
    return (
        f"{tokens:8}{peak['all']:10.0f}{peak['little']:10.0f}{peak['little'] / tokens:12.2f}"
        f"{peak['all'] / peak['little']:8.2f}"
        f"{statistics.median(seconds):12.2f} {spread:16}{gap:9.1e}"
    )


def sampling(dialogues: int, rounds: int, run) -> str:
    load = Load(
        "engine", dialogues, group=GROUP, turns=1, turn_tokens=SAMPLED, prompt_tokens=OPENING
    )
    peak = statistics.median(Sampled(**run("steps.sample", load)).peak_mb for _ in range(rounds))
    tokens = dialogues // GROUP * OPENING + dialogues * SAMPLED
    # Keys and values, layers, heads, numbers per head, bytes.
    stored = tokens * 2 * 30 * 3 * 64 * 4 / 2**20
    return f"{dialogues:10}{peak:9.0f}{stored:18.0f}{WEIGHTS:16.0f}"


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser(__doc__).parse_args(argv)
    run = lambda module, work: in_a_process(
        module,
        json.dumps(asdict(work)),
        arguments.model,
        str(arguments.threads),
        threads=arguments.threads,
    )
    rounds = 1 if arguments.quick else arguments.rounds
    print(f"{'':8}{'peak MB above the model':>20}{'MB a':>9}{'':8}{'CPU time':>12}")
    print(
        f"{'tokens':>8}{'all':>10}{'little':>10}{'token':>12}{'ratio':>8}"
        f"{'little/all':>12} {'range':16}{'gradient':>9}"
    )
    for tokens in (64,) if arguments.quick else TOKENS:
        print(training(tokens, rounds, run), flush=True)
    print(f"\n{'dialogues':>10}{'peak MB':>9}{'keys, values MB':>18}{'weights MB':>16}")
    for dialogues in (8,) if arguments.quick else DIALOGUES:
        print(sampling(dialogues, rounds, run), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
