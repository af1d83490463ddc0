"""Plot the learning curve of one run, or the mean and range of several seeds.

    python benchmarks/learning_curve.py runs/crm runs/crm-2 runs/crm-3 --out docs/results/curve.png

Reads `metrics.jsonl` of each run: success of the sampled training episodes (phase grpo), validation
success (`val/success`) and held-out success (`eval/success`). Prints the held-out table. The plot
needs the extra `analysis` (matplotlib); without `--out` only the table is printed.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from envgym.errors import PrerequisiteError, UsageError
from envgym.evaluation.report import Count

Line = dict[str, Any]
Curve = list[tuple[int, float]]
"""Pairs of step and value, by step."""

SMOOTH_STEPS = 5


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "runs",
        nargs="+",
        type=Path,
        metavar="RUN",
        help="run folders of one experiment, one per seed",
    )
    parser.add_argument("--out", type=Path, help="PNG to write")
    parser.add_argument("--title", default="")
    arguments = parser.parse_args(argv)
    try:
        runs = {run.name: read_run(run) for run in arguments.runs}
        print("\n".join(table(runs)))
        if arguments.out:
            draw(list(runs.values()), arguments.out, title=arguments.title)
            print(f"\n{arguments.out}")
    except (UsageError, PrerequisiteError) as error:
        print(f"learning_curve: {error}", file=sys.stderr)
        return 2
    return 0


def read_run(folder: Path) -> list[Line]:
    """Return the lines of a run's metrics.

    Raises:
        UsageError: If the run has no metrics.
    """
    file = folder / "metrics.jsonl"
    if not file.is_file():
        raise UsageError(
            f"{folder} has no metrics.jsonl. Give a folder that `envgym train` made, such as "
            "runs/crm."
        )
    return [
        json.loads(line)
        for line in file.read_text(encoding="utf-8").splitlines()
        if line.endswith("}")
    ]


def curve(lines: Sequence[Line], name: str, *, phase: str) -> Curve:
    """Return one metric over the steps of one phase. Steps without the metric are skipped."""
    return sorted(
        (line["step"], line[name])
        for line in lines
        if line["phase"] == phase and line.get(name) is not None
    )


def smooth(points: Curve, *, window: int = SMOOTH_STEPS) -> Curve:
    """Return the mean of the last `window` points at each step, because single steps are noisy."""
    values = [value for _, value in points]
    return [
        (step, statistics.fmean(values[max(0, i - window + 1) : i + 1]))
        for i, (step, _) in enumerate(points)
    ]


def mean_and_band(curves: Sequence[Curve]) -> list[tuple[int, float, float, float]]:
    """Return step, mean, minimum and maximum over the runs, for each step."""
    at: dict[int, list[float]] = defaultdict(list)
    for points in curves:
        for step, value in points:
            at[step].append(value)
    return [
        (step, statistics.fmean(values), min(values), max(values))
        for step, values in sorted(at.items())
    ]


def held_out(lines: Sequence[Line]) -> list[tuple[int, Count]]:
    """Return the step and the count of solved tasks of each held-out evaluation, in order."""
    found = [
        line for line in lines if line["phase"] == "eval" and line.get("eval/success") is not None
    ]
    return [
        (line["step"], Count(round(line["eval/success"] * line["eval/n"]), round(line["eval/n"])))
        for line in found
    ]


def table(runs: dict[str, list[Line]]) -> list[str]:
    """Return the table of held-out success by run, with pooled counts if runs share their steps.

    Pooling treats the runs' tasks as independent. If all runs use the same tasks, the interval is
    slightly too narrow.
    """
    results = {name: held_out(lines) for name, lines in runs.items()}
    width = max(map(len, [*results, "pooled"]))
    rows = [f"{'run':{width}}  held-out success at step (95 % interval)"]
    rows += [
        f"{name:{width}}  {_row(points) or 'no evaluation'}" for name, points in results.items()
    ]
    steps = [[step for step, _ in points] for points in results.values()]
    if len(results) > 1 and all(own == steps[0] for own in steps):
        together = zip(*results.values(), strict=True)
        pooled = [
            (at[0][0], Count(sum(c.successes for _, c in at), sum(c.n for _, c in at)))
            for at in together
        ]
        rows.append(f"{'pooled':{width}}  {_row(pooled)}")
    return rows


def _row(points: Sequence[tuple[int, Count]]) -> str:
    return "   ".join(f"{step}: {count.text()}" for step, count in points)


def draw(runs: Sequence[list[Line]], out: Path, *, title: str = "") -> None:
    """Write the plot.

    Raises:
        PrerequisiteError: If matplotlib is not installed.
    """
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot as plt
        from matplotlib.ticker import PercentFormatter
    except ImportError as error:
        raise PrerequisiteError(
            "matplotlib is not installed. To plot: pip install 'envgym[analysis]'"
        ) from error
    figure, axes = plt.subplots(figsize=(8, 4.2), layout="constrained")
    _sampled(axes, runs)
    _validation(axes, runs)
    _held_out(axes, runs)
    _warm_up(axes, runs)
    axes.set(xlabel="step", ylabel="tasks solved", ylim=(0, 1.02), title=title)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(frameon=False, loc="outside lower center", ncols=2, fontsize=9)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=150)
    plt.close(figure)


def _sampled(axes: Any, runs: Sequence[list[Line]]) -> None:
    band = mean_and_band([smooth(curve(lines, "success", phase="grpo")) for lines in runs])
    if band:
        steps, means, lows, highs = zip(*band, strict=True)
        axes.plot(
            steps,
            means,
            color="tab:blue",
            label=f"training tasks, sampled (mean of {SMOOTH_STEPS} steps)",
        )
        if len(runs) > 1:
            axes.fill_between(steps, lows, highs, color="tab:blue", alpha=0.15, lw=0)


def _validation(axes: Any, runs: Sequence[list[Line]]) -> None:
    band = mean_and_band([curve(lines, "val/success", phase="eval") for lines in runs])
    if band:
        steps, means, *_ = zip(*band, strict=True)
        axes.plot(steps, means, "s--", color="tab:green", ms=4, lw=1, label="validation tasks")


def _held_out(axes: Any, runs: Sequence[list[Line]]) -> None:
    """Draw a point and its 95 % interval for each run and evaluation."""
    label = "held-out tasks, with 95 % intervals"
    for number, lines in enumerate(runs):
        for step, count in held_out(lines):
            low, high = count.interval
            x = step + (number - (len(runs) - 1) / 2) * 0.4
            error = [[count.rate - low], [high - count.rate]]
            axes.errorbar(
                [x],
                [count.rate],
                yerr=error,
                fmt="o",
                color="tab:red",
                ms=5,
                capsize=3,
                label=label,
            )
            label = None


def _warm_up(axes: Any, runs: Sequence[list[Line]]) -> None:
    last = max(
        (line["step"] for lines in runs for line in lines if line["phase"] == "warmup"),
        default=math.nan,
    )
    if not math.isnan(last):
        axes.axvspan(
            0, last, color="tab:orange", alpha=0.08, lw=0, label="warm start on demonstrations"
        )


if __name__ == "__main__":
    raise SystemExit(main())
