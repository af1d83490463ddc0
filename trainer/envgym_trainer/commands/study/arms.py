"""Compare several ways to train on one environment, over several seeds. See `Study`.

All arms use the same seeds, training tasks and held-out tasks. A warm start is trained once per
seed and shared. Finished runs are reused and stopped runs are resumed.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from envgym.errors import UsageError
from envgym.evaluation.report import Outcome
from envgym.evaluation.stats import T_975, percent_text, pooled_difference, pooled_interval
from envgym.spec.catalog import find_env
from envgym.text import terminal
from envgym_trainer.config.evaluation import BASE, TRAINED, WARM
from envgym_trainer.config.presets import preset_names
from envgym_trainer.files import atomic_folder, write_atomic
from envgym_trainer.run.folder import RunFolder
from envgym_trainer.run.lock import LOCK
from envgym_trainer.training.launch import resolve, run_training
from envgym_trainer.training.own_settings import resolved_yaml

RESULT = "outcomes.json"
WARM_RUN = "sft"
WARM_ARM = "SFT"
"""Name of the run that ends after the warm start, and of the arm that evaluates it."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to train."""

    name: str
    run: str
    """Name of the arm's run. Several arms may evaluate one run at different times."""
    settings: tuple[str, ...] = ()
    """Settings of the arm. They override the settings of the study."""
    evaluation: str = TRAINED
    """Name of the run's evaluation that is compared."""
    after: str = ""
    """Name of the run that this run continues from. It must belong to an earlier arm."""


@dataclass(frozen=True, slots=True)
class Result:
    """Results of an arm, one per seed."""

    arm: Arm
    outcomes: tuple[Outcome, ...]

    @property
    def rates(self) -> list[float]:
        """Return the fraction of held-out tasks solved, one per seed."""
        return [outcome.total.rate for outcome in self.outcomes]

    @property
    def counts(self) -> list[tuple[int, int]]:
        """Return the number of held-out tasks solved and played, one pair per seed."""
        return [(outcome.total.successes, outcome.total.n) for outcome in self.outcomes]


def baselines() -> tuple[Arm, ...]:
    """Return four arms: base model, SFT alone, GRPO alone, and GRPO after SFT.

    Three runs per seed.
    """
    # GRPO alone may fail to learn. That is a valid result, so its preflight is off.
    return (
        Arm("base", WARM_RUN, ("train.steps=0",), evaluation=BASE),
        Arm(WARM_ARM, WARM_RUN, ("train.steps=0",), evaluation=WARM),
        Arm("GRPO", "grpo", ("train.warm_start.episodes=0", "train.checks.preflight=off")),
        Arm("SFT+GRPO", "sft-grpo", after=WARM_RUN),
    )


def algorithms(names: Sequence[str]) -> tuple[Arm, ...]:
    """Return the warm start alone, and each algorithm after it."""
    arms = (Arm(name, name, (f"train.algorithm={name}",), after=WARM_RUN) for name in names)
    return (Arm(WARM_ARM, WARM_RUN, ("train.steps=0",), evaluation=WARM), *arms)


def own_arms(texts: Sequence[str], *, after_sft: bool) -> tuple[Arm, ...]:
    """Parse arms from the command line: `NAME` or `NAME: key=value ...`.

    Args:
        texts: One text per arm.
        after_sft: Add a warm start as the first arm, and start all other arms from it.

    Raises:
        UsageError: If there are fewer than two arms, or if a name is not usable or is taken.
    """
    arms = [Arm(WARM_ARM, WARM_RUN, ("train.steps=0",), evaluation=WARM)] if after_sft else []
    for text in texts:
        name, _, settings = text.partition(":")
        name = name.strip()
        if not re.fullmatch(r"[\w.-]+", name) or name in {arm.run for arm in arms} | {WARM_RUN}:
            raise UsageError(
                f"--arm '{text}': '{name}' must be a new name of letters, digits and dashes"
            )
        try:
            words = tuple(shlex.split(settings))
        except ValueError as error:
            raise UsageError(
                f"--arm '{text}': its settings cannot be parsed ({error}). "
                "Write key=value key=value"
            ) from None
        arms.append(Arm(name, name, words, after=WARM_RUN if after_sft else ""))
    if len(arms) < 2:
        raise UsageError(
            "a study of arms compares two or more: --arm fixed --arm "
            "'spread: train.reward_weights.mode=spread'"
        )
    return tuple(arms)


@dataclass(frozen=True, slots=True)
class Study:
    """Runs of several arms over several seeds.

    Args:
        arms: Ways to train.
        seeds: Seeds of each arm.
        env: Path of a YAML file, or name of an environment.
        settings: `key=value` settings of all arms.
        out: Folder of the runs. A run's folder is named after its run name and seed.

    Example:
        console = Console()
        study = Study(
            baselines(),
            seeds=(0,),
            env="guess",
            settings=["train.model=tiny", "train.steps=1", "train.warm_start.episodes=8"],
            out=Path("runs/study"),
        )
        console.print(to_table(study.run(console)))
    """

    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    env: str
    settings: Sequence[str]
    out: Path

    def run(self, console: Console) -> list[Result]:
        """Train the missing runs and return all results.

        Raises:
            UsageError: If an arm is not possible in this environment.
        """
        self.check()
        runs = {arm.run: arm for arm in self.arms}
        plan = [(seed, arm) for seed in self.seeds for arm in runs.values()]
        done: dict[tuple[int, str], dict[str, Outcome]] = {}
        for number, (seed, arm) in enumerate(plan, 1):
            title = f"\nrun {number} of {len(plan)}: {arm.run}, seed {seed}"
            console.print(terminal.heading(title))
            done[seed, arm.run] = self._outcomes(arm, seed, console)
        return [
            Result(arm, tuple(done[seed, arm.run][arm.evaluation] for seed in self.seeds))
            for arm in self.arms
        ]

    def check(self) -> None:
        """Check that every run is possible and that existing runs belong to this study."""
        for arm in self.arms:
            _, config, _ = resolve(self.env, self._settings(arm, 0))
            if arm.evaluation == WARM and not config.warm_start.episodes:
                raise UsageError(
                    f"arm '{arm.name}' needs a warm start, and this environment has none. "
                    "Set train.warm_start.episodes=64"
                )
            if arm.evaluation == BASE and config.evaluation.base_tasks == 0:
                raise UsageError(
                    f"arm '{arm.name}' needs the base model's evaluation. "
                    "Remove train.evaluation.base_tasks=0"
                )
            for seed in self.seeds:
                self._check_same(arm, seed)

    def _check_same(self, arm: Arm, seed: int) -> None:
        spec, config, _ = resolve(self.env, self._settings(arm, seed))
        made = self._path(arm, seed) / "config.yaml"
        if made.is_file() and made.read_text(encoding="utf-8") != resolved_yaml(spec, config):
            raise UsageError(
                f"{made.parent} was made with other settings. "
                "Choose another folder with --out, or remove it"
            )

    def _outcomes(self, arm: Arm, seed: int, console: Console) -> dict[str, Outcome]:
        path = self._path(arm, seed)
        if (path / RESULT).is_file():
            console.print(f"already finished: {path}", highlight=False)
        else:
            spec, config, _ = resolve(self.env, self._settings(arm, seed))
            if arm.after and not path.exists():
                _branch(self.out / f"{arm.after}-seed{seed}", path, resolved_yaml(spec, config))
            begun = RunFolder(path).latest_checkpoint() is not None
            folder = RunFolder.open(path) if begun else _fresh(path, console)
            outcomes = run_training(spec, config, folder, console=console, resume=begun)
            write_atomic(
                path / RESULT,
                json.dumps({name: each.to_dict() for name, each in outcomes.items()}, indent=2)
                + "\n",
            )
        plain = json.loads((path / RESULT).read_text(encoding="utf-8"))
        return {name: Outcome.from_dict(each) for name, each in plain.items()}

    def _path(self, arm: Arm, seed: int) -> Path:
        return self.out / f"{arm.run}-seed{seed}"

    def _settings(self, arm: Arm, seed: int) -> list[str]:
        return [*self.settings, *arm.settings, f"train.seed={seed}"]


def _fresh(path: Path, console: Console) -> RunFolder:
    # A run without a checkpoint cannot be resumed, so it starts again.
    if (path / "config.yaml").is_file():
        with RunFolder.open(path).locked(console.print):
            shutil.rmtree(path)
    path.mkdir(parents=True, exist_ok=True)
    return RunFolder(path)


def _branch(source: Path, path: Path, config: str) -> None:
    """Create a run that continues from another run's last checkpoint with other settings."""
    with atomic_folder(path) as folder:
        shutil.copytree(
            source,
            folder,
            dirs_exist_ok=True,
            ignore=shutil.ignore_patterns("adapter", "config.yaml", LOCK, RESULT, ".*"),
        )
        RunFolder(folder).write_config(config)


def table(results: Sequence[Result]) -> list[tuple[str, ...]]:
    """Return the rows of the result table, with a header first.

    Columns: arm, mean with interval, gain over the first arm with interval, and the rate of each
    seed.
    """
    rows = [("arm", "solved", f"more than {results[0].arm.name}", "each seed")]
    first = results[0].counts
    for result in results:
        gain = _text(*pooled_difference(result.counts, first), sign=True)
        rows.append(
            (
                result.arm.name,
                _text(*pooled_interval(result.counts)),
                "" if result is results[0] else gain,
                " ".join(percent_text(rate) for rate in result.rates),
            )
        )
    return rows


def _text(mean: float, low: float, high: float, *, sign: bool = False) -> str:
    """Format a mean and its interval as `42 % (35 to 49)`, in per cent.

    With a single seed there is no interval.
    """
    ends = f" ({percent_text(low, sign=sign)} to {percent_text(high, sign=sign)})"
    return f"{percent_text(mean, sign=sign)} %" + ("" if math.isnan(low) else ends)


def to_markdown(results: Sequence[Result]) -> str:
    """Return the table in Markdown, with a note about the interval."""
    head, *rows = table(results)
    lines = [head, ("---", *("---:" for _ in head[1:])), *rows]
    count = len(results[0].outcomes)
    tasks = results[0].outcomes[0].total.n
    note = (
        f"Share of {tasks} held-out tasks solved, mean over {count} seeds. Brackets: 95 % interval "
        "of that mean, and of the mean difference seed by seed. It contains Student's interval of "
        "the seeds and the interval of all episodes (Wilson's, and Newcombe's of a difference)."
    )
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + f"\n\n{note}"


def to_table(results: Sequence[Result]) -> Table:
    """Return the table for a terminal."""
    head, *rows = table(results)
    shown = Table(
        title="held-out tasks solved, mean and 95 % interval over seeds",
        title_justify="left",
        title_style="dim",
    )
    for name in head:
        shown.add_column(terminal.cell(name), justify="left" if name == "arm" else "right")
    for row in rows:
        shown.add_row(*row)
    return shown


def run_command(arguments: argparse.Namespace) -> int:
    """Run `envgym study`: train, print the table and write it beside the runs."""
    if not 1 <= arguments.seeds <= len(T_975) + 1:
        raise UsageError(f"--seeds must lie between 1 and {len(T_975) + 1}, got {arguments.seeds}")
    if arguments.what != "arms" and (arguments.arm or arguments.after_sft):
        raise UsageError(
            f"--arm and --after-sft belong to `envgym study arms`, not to "
            f"`envgym study {arguments.what}`"
        )
    if arguments.what == "arms":
        arms = own_arms(arguments.arm, after_sft=arguments.after_sft)
    elif arguments.what == "algorithms":
        arms = algorithms([name for name in arguments.names.split(",") if name] or preset_names())
    else:
        arms = baselines()
    out = arguments.out or Path("runs") / f"study-{find_env(arguments.env).stem}"
    console = terminal.Console()
    try:
        results = Study(
            arms, tuple(range(arguments.seeds)), arguments.env, arguments.settings, out
        ).run(console)
    except KeyboardInterrupt:
        console.print("\nstopped and saved. Run the same command to continue.", highlight=False)
        return 130
    console.print()
    console.print(to_table(results))
    write_atomic(out / f"{arguments.what}.md", to_markdown(results) + "\n")
    console.print(
        f"The table is in {out / arguments.what}.md; each run is a folder beside it",
        highlight=False,
    )
    return 0
