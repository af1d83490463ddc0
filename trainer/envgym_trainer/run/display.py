"""Show a run in the terminal: a live panel, or one plain line a step if there is no terminal.

    GRPO  ━━━━━━━━━━━━━━━━━━━━━━━━━╸───────────  38/60 · 2:10 left
    success 0.62  ▁▂▂▃▅▅▆▇   reward 0.71   solved 0.62  format 0.98   1,240 tokens/s

Uses the metric names of `metrics.py`. See `monitor.py` for metrics files.
"""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from envgym.evaluation.stats import number_text
from envgym.secrets import redact
from envgym.text import terminal, visible

TITLES = {"warmup": "warm-up", "grpo": "GRPO", "eval": "eval"}
TOKENS_PER_SECOND = "throughput/tokens_per_second"
BLOCKS = "▁▂▃▄▅▆▇█"


class Display:
    """Progress display of a run's phases.

    Args:
        plan: Phase -> number of steps, or of tasks for an evaluation.
        console: Console to write to; standard output by default.
    """

    def __init__(self, plan: Mapping[str, int], *, console: Console | None = None):
        self.plan = dict(plan)
        self.console = console or terminal.Console()
        self._times: dict[str, deque[tuple[float, int]]] = {}
        self._history: deque[float] = deque(maxlen=24)
        self._live: Live | None = None

    def __enter__(self) -> Display:
        if self.console.is_terminal:
            self._live = Live(
                Text("starting"), console=self.console, refresh_per_second=4, transient=True
            )
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def note(self, text: str) -> None:
        """Print a line that stays, such as the result of an evaluation."""
        self.console.print(Text(visible(redact(text))))

    def update(self, phase: str, done: int, metrics: Mapping[str, Any] | None = None) -> None:
        """Show that `done` steps of the phase are finished, with the last step's metrics."""
        metrics = metrics or {}
        times = self._times.setdefault(phase, deque(maxlen=20))
        times.append((time.monotonic(), done))
        if phase == "grpo" and "success" in metrics:
            self._history.append(float(metrics["success"]))
        left = seconds_left(list(times), total=self.plan.get(phase, done))
        if self._live is not None:
            self._live.update(self._panel(phase, done, metrics, left))
        else:
            line = plain_line(phase, done, self.plan.get(phase), metrics, left)
            self.console.print(Text(visible(line)), soft_wrap=True)

    def _panel(
        self, phase: str, done: int, metrics: Mapping[str, Any], left: float | None
    ) -> Group:
        total = self.plan.get(phase, done)
        bar = Table.grid(padding=(0, 1))
        bar.add_row(
            Text(visible(TITLES.get(phase, phase)), style="bold"),
            ProgressBar(total=max(1, total), completed=done, width=40),
            f"{done}/{total}" + (f" · {clock(left)} left" if left is not None else ""),
        )
        curve = sparkline(list(self._history)) if phase == "grpo" else ""
        line = "  ".join(part for part in (headline(metrics), curve) if part)
        return Group(bar, Text(visible(line)))


def plain_line(
    phase: str, done: int, total: int | None, metrics: Mapping[str, Any], left: float | None
) -> str:
    """Return one line for a log file: `GRPO 3/60 · success 0.50 · reward 0.61 · ... · 2:10 left`"""
    parts = [
        f"{TITLES.get(phase, phase)} {done}" + (f"/{total}" if total is not None else ""),
        headline(metrics),
    ]
    if left is not None:
        parts.append(f"{clock(left)} left")
    return " · ".join(part for part in parts if part)


def headline(metrics: Mapping[str, Any]) -> str:
    """Return the main metrics in one row: loss, success, reward, its parts, tokens per second."""
    shown = {"loss": "loss", "success": "success", "eval/success": "success", "reward": "reward"}
    parts = [
        f"{title} {_short(metrics[name])}"
        for name, title in shown.items()
        if metrics.get(name) is not None
    ]
    parts += [
        f"{name.split('/')[1]} {number_text(value)}"
        for name, value in metrics.items()
        if _is_part(name) and value is not None
    ]
    if metrics.get(TOKENS_PER_SECOND):
        parts.append(f"{metrics[TOKENS_PER_SECOND]:,.0f} tokens/s")
    return " · ".join(parts)


def seconds_left(times: list[tuple[float, int]], *, total: int) -> float | None:
    """Return the seconds until `total` steps, or `None` until two updates are recorded.

    Uses the median pace of the last steps.

    Args:
        times: (seconds, finished steps) of the last updates, oldest first.
        total: Number of steps of the phase.
    """
    paces = [(b[0] - a[0]) / (b[1] - a[1]) for a, b in pairwise(times) if b[1] > a[1]]
    return statistics.median(paces) * max(0, total - times[-1][1]) if paces else None


def clock(seconds: float) -> str:
    """Format seconds: 75 -> `1:15`, 3725 -> `1:02:05`."""
    whole = round(seconds)
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def sparkline(values: list[float]) -> str:
    """Return values between 0 and 1 as block characters. Other values are clamped."""
    return "".join(BLOCKS[min(7, max(0, int(value * 8)))] for value in values)


def _short(value: float) -> str:
    """Return three digits, or more if they would show a whole number that the value is not."""
    text = f"{value:.3g}"
    return text if float(text) == value or float(text) % 1 else f"{value:.7g}"


def _is_part(name: str) -> bool:
    return name.startswith("rewards/") and name.endswith("/mean")
