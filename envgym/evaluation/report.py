"""Evaluation results: success rates by level with 95 % intervals, as tables, Markdown and JSON.

>>> Count(62, 100).text()
'62 % (52-71)'

Void episodes are counted but not scored. Not included: metrics of training steps, which the trainer
logs.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

from envgym.episode import Episode
from envgym.evaluation.stats import (
    intervals_overlap,
    newcombe_difference,
    number_text,
    percent_text,
    wilson_interval,
)
from envgym.text import natural_key, one_line, terminal
from envgym.text import to_json as strict_json
from envgym.text.terminal import cell

ALL = "all"
IN_DOMAIN = "in-domain"
HELD_OUT = "held-out templates"


@dataclass(frozen=True, slots=True)
class Count:
    """Number of solved tasks among the tasks played."""

    successes: int
    n: int

    @property
    def rate(self) -> float:
        """Fraction of tasks solved; NaN if no task was played."""
        return self.successes / self.n if self.n else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson 95 % interval; (0, 1) if no task was played."""
        return wilson_interval(self.successes, self.n) if self.n else (0.0, 1.0)

    def text(self) -> str:
        """Return text such as `62 % (55-69)`, or `-` if no task was played.

        The numbers in brackets are the 95 % interval in per cent. 199 of 200 is `99.5 %`: 100 and 0
        stand for all and none.
        """
        if not self.n:
            return "-"
        low, high = self.interval
        return f"{percent_text(self.rate)} % ({percent_text(low)}-{percent_text(high)})"


@dataclass(frozen=True, slots=True)
class Outcome:
    """Result of one policy on a set of tasks."""

    policy: str
    """Display name, such as `oracle` or `warm start`."""
    total: Count
    """Count over all episodes with a known success."""
    levels: dict[str, Count] = field(default_factory=dict)
    """Count by level."""
    domains: dict[str, Count] = field(default_factory=dict)
    """Counts for `IN_DOMAIN` (templates that training uses) and `HELD_OUT` (the other templates).
    Empty unless both have episodes."""
    played: int = 0
    """Number of episodes that are not void."""
    void: int = 0
    """Number of void episodes."""
    reward: float | None = None
    """Mean reward of the episodes that are not void; None if no episode has a reward."""
    turns: float | None = None
    """Mean number of turns of the episodes that are not void; None if all are void."""

    @classmethod
    def of(
        cls, policy: str, episodes: Iterable[Episode], *, trained: Container[str] | None = None
    ) -> Outcome:
        """Build the outcome of one policy from its episodes.

        Args:
            policy: Display name of the policy.
            episodes: Episodes of one evaluation, void ones included.
            trained: Names of the templates that training uses; None if they are unknown.
        """
        episodes = list(episodes)
        played = [episode for episode in episodes if not episode.is_void]
        known = [episode for episode in played if episode.success is not None]
        levels = {
            level: _count(e for e in known if e.level == level)
            for level in sorted({e.level for e in known if e.level}, key=natural_key)
        }
        return cls(
            policy,
            _count(known),
            levels,
            _domains(known, trained),
            len(played),
            len(episodes) - len(played),
            _mean([episode.reward for episode in played if episode.reward is not None]),
            _mean([float(episode.turns) for episode in played]),
        )

    def summary(self) -> str:
        """Return one line such as `62 % (55-69) of 200 tasks · L0 80 % (71-87) · reward 0.71`."""
        parts = (
            [f"{self.total.text()} of {self.total.n} tasks"]
            if self.total.n
            else [f"{self.played} episodes"]
        )
        parts += [
            f"{level} {count.text()}"
            for level, count in self.levels.items()
            if len(self.levels) > 1
        ]
        parts += [f"reward {number_text(self.reward)}"] if self.reward is not None else []
        return " · ".join([*parts, *([f"{self.void} void"] if self.void else [])])

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-serializable dict with rates and intervals; `from_dict` reads it."""
        return asdict(self) | {
            "total": _count_to_dict(self.total),
            "levels": _counts_to_dict(self.levels),
            "domains": _counts_to_dict(self.domains),
        }

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Outcome:
        """Build an outcome from the values of `to_dict`."""
        counts = {
            "total": _count_from_dict(plain["total"]),
            "levels": _counts_from_dict(plain.get("levels", {})),
            "domains": _counts_from_dict(plain.get("domains", {})),
        }
        return cls(**(plain | counts))


def outcomes_table(rows: Sequence[Outcome]) -> Table:
    """Return a table with one column per policy and one row per level, followed by the means."""
    caption = describe_gap(rows[-1]) if rows else ""
    table = Table(
        title="solved, with 95 % intervals",
        title_justify="left",
        title_style="dim",
        caption=cell(caption) if caption else None,
    )
    table.caption_justify = "left"
    table.add_column("level")
    for outcome in rows:
        table.add_column(cell(outcome.policy), justify="right")
    for name, *cells in _cells(rows):
        table.add_row(cell(name), *cells, style="bold" if name == ALL else None)
    return table


def to_markdown(rows: Sequence[Outcome]) -> str:
    """Return the table as GitHub Markdown, followed by the gains of the last policy."""
    head = ["level", *(outcome.policy for outcome in rows)]
    lines = [
        head,
        ["---", *("---:" for _ in rows)],
        *([name, *cells] for name, *cells in _cells(rows)),
    ]
    table = "\n".join(
        "| " + " | ".join(one_line(word).replace("|", "\\|") for word in line) + " |"
        for line in lines
    )
    note = "Share of tasks solved; 95 % Wilson intervals in brackets, in per cent."
    gains = "\n".join(
        f"- {line}" for before in rows[:-1] if (line := describe_gain(before, rows[-1]))
    )
    gaps = "\n".join(f"- {line}" for outcome in rows if (line := describe_gap(outcome)))
    return "\n\n".join(part for part in (table, note, gains, gaps) if part)


def to_json(rows: Sequence[Outcome]) -> str:
    """Return the exact numbers as JSON: a list of `Outcome.to_dict`."""
    return strict_json([outcome.to_dict() for outcome in rows], indent=2)


def describe_gain(before: Outcome, after: Outcome) -> str:
    """Return a comparison of two policies, or an empty string if one of them played no task.

    Example: `trained is 31 points above warm start (95 %: 21 to 40); the two intervals do not
    overlap.`
    """
    old = before.total
    new = after.total
    if not (old.n and new.n):
        return ""
    points = new.rate - old.rate
    low, high = newcombe_difference(new.successes, new.n, old.successes, old.n)
    apart = "overlap" if intervals_overlap(old.interval, new.interval) else "do not overlap"
    where = f"{percent_text(abs(points))} points {'above' if points >= 0 else 'below'}"
    return (
        f"{after.policy} is {where} {before.policy} "
        f"(95 %: {percent_text(low)} to {percent_text(high)}); the two intervals {apart}."
    )


def describe_gap(outcome: Outcome) -> str:
    """Return a comparison of in-domain and held-out success, or an empty string without `domains`.

    Example: `trained: 12 points more in-domain than on held-out templates (95 %: 3 to 21).`
    """
    if not outcome.domains:
        return ""
    known = outcome.domains[IN_DOMAIN]
    new = outcome.domains[HELD_OUT]
    points = known.rate - new.rate
    low, high = newcombe_difference(known.successes, known.n, new.successes, new.n)
    where = (
        f"{percent_text(abs(points))} points {'more' if points >= 0 else 'less'} "
        "in-domain than on held-out templates"
    )
    return f"{outcome.policy}: {where} (95 %: {percent_text(low)} to {percent_text(high)})."


def print_outcomes(
    outcomes: Sequence[Outcome], *, as_json: bool = False, console: Console | None = None
) -> None:
    """Print the table, or only the exact numbers as JSON."""
    if as_json:
        print(to_json(outcomes))
        return
    console = console or terminal.Console()
    console.print(outcomes_table(outcomes))


def _cells(rows: Sequence[Outcome]) -> list[list[str]]:
    """Return the body of both tables: a name and one text per policy in each row."""
    levels = sorted({level for outcome in rows for level in outcome.levels}, key=natural_key)
    body = [
        [level, *(outcome.levels.get(level, Count(0, 0)).text() for outcome in rows)]
        for level in levels
        if len(levels) > 1
    ]
    for domain in (IN_DOMAIN, HELD_OUT):
        if any(outcome.domains for outcome in rows):
            body.append(
                [domain, *(outcome.domains.get(domain, Count(0, 0)).text() for outcome in rows)]
            )
    body.append([ALL, *(outcome.total.text() for outcome in rows)])
    body.append(["tasks", *(str(outcome.total.n or outcome.played) for outcome in rows)])
    body.append(["mean reward", *(_number(outcome.reward) for outcome in rows)])
    body.append(["mean turns", *(_number(outcome.turns) for outcome in rows)])
    if any(outcome.void for outcome in rows):
        body.append(["void", *(str(outcome.void) for outcome in rows)])
    return body


def _domains(known: Sequence[Episode], trained: Container[str] | None) -> dict[str, Count]:
    if trained is None:
        return {}
    domains = {
        IN_DOMAIN: _count(episode for episode in known if episode.template in trained),
        HELD_OUT: _count(episode for episode in known if episode.template not in trained),
    }
    return domains if all(count.n for count in domains.values()) else {}


def _count(episodes: Iterable[Episode]) -> Count:
    known = [bool(episode.success) for episode in episodes]
    return Count(sum(known), len(known))


def _count_to_dict(count: Count) -> dict[str, Any]:
    low, high = count.interval
    return {
        "successes": count.successes,
        "n": count.n,
        "rate": count.rate if count.n else None,
        "low": low,
        "high": high,
    }


def _counts_to_dict(counts: Mapping[str, Count]) -> dict[str, Any]:
    return {name: _count_to_dict(count) for name, count in counts.items()}


def _count_from_dict(plain: Mapping[str, Any]) -> Count:
    return Count(plain["successes"], plain["n"])


def _counts_from_dict(plain: Mapping[str, Any]) -> dict[str, Count]:
    return {name: _count_from_dict(count) for name, count in plain.items()}


def _number(value: float | None) -> str:
    return "-" if value is None else number_text(value)


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None
