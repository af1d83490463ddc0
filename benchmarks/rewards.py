"""Train one tool task under several reward compositions, over seeds, with intervals.

    python benchmarks/rewards.py                # 21 runs from 3 warm starts: an hour on two cores
    python benchmarks/rewards.py --quick        # two rewards, one seed, two steps

The game of `envs/guess.yaml` with the tiny model. All runs of a seed continue from one warm start
and are compared by the fraction of held-out tasks solved. Parts: `solved` (coarse), `progress` and
`form` (fine: number found, calls well-formed), `brief` (fewer answers are better, but aborting does
not pay).

    coarse      solved
    fine        solved + 0.5 progress + 0.2 form
    scheduled   as fine, with progress and form falling to 0 over the first half
    sum         solved + brief
    gated       solved + brief if solved
    gdpo        as sum, with each part normalized separately
    spread      as sum, with weights that equalize the variance of the parts
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from envgym_trainer.commands.study.arms import WARM, WARM_RUN, Arm, Study, to_markdown

ENV = "envs/guess.yaml"
STEPS = 20
QUICK = [
    "train.warm_start.episodes=16",
    "train.steps=2",
    "train.rollout.groups_per_step=2",
    "train.rollout.group_size=4",
    "train.evaluation.tasks=8",
]
PROGRESS = "from: state_progress"
FORM = "from: valid_calls"
BRIEF = "from: turns, range: [1.0, 0.8]"
"""1 minus 0.2 times the number of answers: 0.8 for one, -0.2 for six."""


def rewards(steps: int) -> dict[str, tuple[str, ...]]:
    """Return the settings of each reward, by name."""
    falling = f"{{0: 1.0, {max(1, steps // 2)}: 0.0}}"
    fine = (f"reward.progress={{{PROGRESS}, weight: 0.5}}", f"reward.form={{{FORM}, weight: 0.2}}")
    scheduled = (
        f"reward.progress={{{PROGRESS}, range: [0, 0.5], weight: {falling}}}",
        f"reward.form={{{FORM}, range: [0, 0.2], weight: {falling}}}",
    )
    brief = f"reward.brief={{{BRIEF}}}"
    return {
        "coarse": (),
        "fine": fine,
        "scheduled": scheduled,
        "sum": (brief,),
        "gated": (f"reward.brief={{{BRIEF}, gate: solved}}",),
        "gdpo": (brief, "train.algorithm=gdpo"),
        "spread": (brief, "train.reward_weights={mode: spread}"),
    }


def main(argv: Sequence[str] | None = None) -> int:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--seeds", type=int, default=3, help="number of seeds (default: 3)")
    options.add_argument(
        "--steps", type=int, default=STEPS, help=f"GRPO steps of each run (default: {STEPS})"
    )
    options.add_argument(
        "--out",
        type=Path,
        default=Path("runs/rewards"),
        help="folder of the runs; finished runs are reused",
    )
    options.add_argument("--quick", action="store_true", help="little work, to check that it runs")
    arguments = options.parse_args(argv)
    steps = 2 if arguments.quick else arguments.steps
    made = {
        name: rule
        for name, rule in rewards(steps).items()
        if not arguments.quick or name in ("coarse", "gated")
    }
    arms = [Arm("SFT", WARM_RUN, ("train.steps=0",), evaluation=WARM)]
    arms += [Arm(name, name, rule, after=WARM_RUN) for name, rule in made.items()]
    settings = [
        f"train.steps={steps}",
        "train.evaluation.base_tasks=0",
        "train.evaluation.temperature=1.0",
        *(QUICK if arguments.quick else ()),
    ]
    seeds = tuple(range(1 if arguments.quick else arguments.seeds))
    env = str(Path(__file__).parents[1] / ENV)
    results = Study(tuple(arms), seeds, env, settings, arguments.out).run(Console(stderr=True))
    print(to_markdown(results))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
