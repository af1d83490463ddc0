"""Measure reward hacking in self-training by votes, and the value of a few true labels.

    python benchmarks/selftrain.py              # seven settings, 20 seeds: two minutes on one core
    python benchmarks/selftrain.py --quick      # one seed, fewer steps: checks that it runs

A numpy toy without a language model: 600 tasks and a softmax policy trained by GRPO steps on the
rewards of `envgym.rewards.scoring.majority_vote` (see `selftraining/toy.py`). "In an eighth" means
that this fraction of the groups has labelled tasks. Accuracies are of held-out tasks. The limits of
`envgym.rewards.scoring.hacking_signals` and the toy's bias were chosen on seeds 100 to 119; the
reported seeds are 0 to 19. An alarm is in time if it comes before held-out accuracy is ten points
below its peak.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from selftraining.toy import Setting, train

STEPS = 300
SEEDS = 20
LOST = 0.10
SETTINGS = (
    Setting("votes"),
    Setting("votes, most agreed half", kept=0.5),
    Setting("votes, 5 % true labels", true_labels=0.05),
    Setting("votes, 5 % true labels, most agreed half", true_labels=0.05, kept=0.5),
    Setting(
        "votes, 5 % true labels in an eighth, agreed half",
        true_labels=0.05,
        labelled_groups=0.125,
        kept=0.5,
    ),
    Setting("votes, easiest third", easiest=1 / 3),
    Setting("true labels", true_labels=1.0),
)
GOALS = {
    "votes": "all in time",
    "votes, 5 % true labels": "keeps 90 %",
    "votes, 5 % true labels, most agreed half": "keeps 90 %",
    "votes, 5 % true labels in an eighth, agreed half": "keeps 90 %",
    "votes, easiest third": "5 % alarms",
    "true labels": "5 % alarms",
}
COLUMNS = (
    ("peak", 6),
    ("end", 6),
    ("kept (worst)", 13),
    ("modal", 7),
    ("lost", 10),
    ("at", 6),
    ("alarmed", 10),
    ("at", 6),
    ("in time", 10),
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Result of one run, as the table needs it."""

    setting: str
    seed: int
    peak: float
    end: float
    modal: float
    """Fraction of the most frequent answer at the end."""
    lost_at: int | None
    """First step at which accuracy is ten points below its peak, or None."""
    alarms: dict[str, int]
    """Step of the first alarm of each kind."""
    warnings: dict[str, int]

    @property
    def alarm_at(self) -> int | None:
        return min(self.alarms.values(), default=None)

    @property
    def in_time(self) -> bool:
        return (
            self.lost_at is not None and self.alarm_at is not None and self.alarm_at < self.lost_at
        )


def outcome(setting: Setting, seed: int, steps: int) -> Outcome:
    run = train(setting, seed=seed, steps=steps)
    peak = 0.0
    lost_at = None
    for step, accuracy in enumerate(run.accuracy):
        peak = max(peak, accuracy)
        if lost_at is None and peak - accuracy >= LOST:
            lost_at = step
    firsts = {
        severity: {s.name: s.step for s in reversed(run.signals) if s.severity == severity}
        for severity in ("alarm", "warn")
    }
    return Outcome(
        setting.name,
        seed,
        peak,
        run.accuracy[-1],
        run.modal,
        lost_at,
        firsts["alarm"],
        firsts["warn"],
    )


def row(runs: Sequence[Outcome]) -> str:
    mean = lambda name: statistics.fmean(getattr(run, name) for run in runs)
    kept = [run.end / run.peak for run in runs]
    lost = [run for run in runs if run.lost_at is not None]
    alarmed = [run.alarm_at for run in runs if run.alarm_at is not None]
    middle = lambda steps: f"{statistics.median(steps):.0f}" if steps else "-"
    name = runs[0].setting
    return (
        f"{name:50}{mean('peak'):6.2f}{mean('end'):6.2f}"
        f"{statistics.fmean(kept):6.0%} ({min(kept):4.0%}){mean('modal'):7.2f}"
        f"{f'{len(lost)} of {len(runs)}':>10}"
        f"{middle([run.lost_at for run in lost]):>6}{f'{len(alarmed)} of {len(runs)}':>10}"
        f"{middle(alarmed):>6}"
        f"{f'{sum(run.in_time for run in lost)} of {len(lost)}' if lost else '-':>10}  "
        f"{GOALS.get(name, '')}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one seed, fewer steps")
    parser.add_argument("--json", action="store_true", help="print one JSON object per run instead")
    parser.add_argument(
        "--seeds", type=int, default=SEEDS, help=f"runs of each kind (default: {SEEDS})"
    )
    parser.add_argument(
        "--first-seed",
        type=int,
        default=0,
        help="first seed (default: 0); 100 repeats the runs that set the limits",
    )
    arguments = parser.parse_args(argv)
    count, steps = (1, 100) if arguments.quick else (arguments.seeds, STEPS)
    if not arguments.json:
        print(f"{'':50}{''.join(name.rjust(width) for name, width in COLUMNS)}  goal")
    for setting in SETTINGS:
        runs = [outcome(setting, arguments.first_seed + number, steps) for number in range(count)]
        print(
            "\n".join(json.dumps(asdict(run)) for run in runs) if arguments.json else row(runs),
            flush=True,
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
