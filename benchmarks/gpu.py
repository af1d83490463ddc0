"""Measure sampler and learner on a GPU against the hardware limits and against TRL.

    python benchmarks/gpu.py                    # pip install -e '.[train,parity]'; 8 minutes
    python benchmarks/gpu.py --quick            # miniature on a CPU: checks that it runs
    pytest -m gpu                               # checks that the results are exact

Public architectures with random weights in bfloat16; no network. Decoding: 64 sampled tokens for
each dialogue. The limit is the rate at which all weights, keys and values could be read once a
token, at the measured copy speed. Training: one update of a group of 16 with a prompt of 512 and
responses of 128 tokens. MFU is relative to a measured matrix product. The whole step
is measured as in `step_vs_trl.py`, with 8 tasks x 8 episodes, in five rounds.
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from step_vs_trl import BATCHING, OURS, PEER, run, table
from steps.chip import Chip, Decoding, random_model
from steps.work import Work, in_a_process

from envgym.errors import EnvgymError
from envgym_trainer.model.load import resolve

GOALS = {"of limit": 0.35, "MFU": 0.40, "step s": 10.0}


def chip(size: str, device: str, dtype: str, *, quick: bool) -> Chip:
    found = in_a_process(
        "steps.chip", size, device, dtype, *(["quick"] if quick else []), threads=1
    )
    return Chip(**(found | {"decoding": [Decoding(**each) for each in found["decoding"]]}))


def lines(found: Chip) -> list[str]:
    said = [
        f"{found.size}, {found.versions}",
        f"    the chip: {found.gigabytes_per_second:,.0f} GB/s, "
        f"{found.teraflops:,.1f} TFLOP/s, both measured now",
    ]
    for each in found.decoding:
        share = f"{100 * each.tokens_per_second / each.limit:.1f} % of the limit"
        goal = "   (goal 35 %)" if found.size == "0.5B" and each.dialogues == 64 else ""
        said.append(
            f"    decoding {each.dialogues:4} dialogues: "
            f"{each.tokens_per_second:12,.1f} tokens/s, {share}{goal}"
        )
    goal = "   (goal 40 %)" if found.size == "0.5B" else ""
    training = f"{found.train_tokens_per_second:,.1f} tokens/s, MFU {100 * found.mfu:.1f} %{goal}"
    return [*said, f"    training {'':18}{training}, peak {found.peak_mb:,.0f} MB", ""]


def step(size: str, device: str, dtype: str, *, rounds: int, tokenizer: Path) -> list[str]:
    """Return the table of `step_vs_trl.py` for this model."""
    from transformers import AutoTokenizer

    work = Work(tasks=8, micro_batch=8, device=device, dtype=dtype)
    sides = [OURS, PEER, BATCHING]
    found = []
    with tempfile.TemporaryDirectory() as folder:
        random_model(size, "cpu", getattr(torch, dtype)).save_pretrained(folder)
        AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)
        for number in range(rounds):
            order = sides[:: -1 if number % 2 else 1]
            done = {side: run(side, work, folder, 8) for side in order}
            found.append({side: done[side] for side in sides})
    return table(found, {"step s": GOALS["step s"]})


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="miniature on the CPU, to check that it runs"
    )
    parser.add_argument("--sizes", default="0.5B,1.5B,4B", metavar="A,B")
    parser.add_argument(
        "--rounds", type=int, default=5, help="rounds of the step beside TRL's; 0 skips it"
    )
    arguments = parser.parse_args(argv)
    if not arguments.quick and not torch.cuda.is_available():
        parser.error("there is no GPU that torch can use. Run a miniature on the CPU with --quick.")
    device, dtype = ("cpu", "float32") if arguments.quick else ("cuda", "bfloat16")
    for size in ["miniature"] if arguments.quick else arguments.sizes.split(","):
        print("\n".join(lines(chip(size, device, dtype, quick=arguments.quick))), flush=True)
    if arguments.quick or not arguments.rounds:
        return 0
    try:
        tokenizer = resolve("smollm2-135m-instruct").path
    except EnvgymError as error:
        print(f"no step beside TRL's: it needs SmolLM2's tokenizer. {error}")
        return 0
    if importlib.util.find_spec("trl") is None:
        print("no step beside TRL's: it needs pip install -e '.[parity]'")
        return 0
    print("\n".join(step("0.5B", device, dtype, rounds=arguments.rounds, tokenizer=tokenizer)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
