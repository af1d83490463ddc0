"""Find a logged metric in the table of all metrics.

The reference page is generated from the table, and a test compares it with the metrics of real
runs. Importable without torch.
"""

from __future__ import annotations

import re

from envgym_trainer.run import metric_data, metric_data_training
from envgym_trainer.run.metric_data import Metric

SECTIONS: dict[str, tuple[Metric, ...]] = {
    "Reward": metric_data.REWARD,
    "Episodes": metric_data.EPISODES,
    "Groups and rollout": metric_data.GROUPS,
    "Curriculum and training plan": metric_data.CURRICULUM,
    "Update": metric_data_training.UPDATE,
    "Time and sandbox": metric_data_training.TIME,
    "Reward hacking": metric_data_training.HACKING,
}
"""Title of each section of the reference page -> its metrics."""
METRICS: tuple[Metric, ...] = tuple(metric for each in SECTIONS.values() for metric in each)
"""All metrics. The first entry that matches a name describes it."""


def find_metric(name: str) -> Metric | None:
    """Return the entry of a metric, or `None` if the table does not hold it.

    Args:
        name: Name in `metrics.jsonl`. The prefixes `eval/` and `val/` (an evaluation on held-out
            tasks, and on validation tasks) are ignored.
    """
    plain = re.sub(r"^(eval|val)/", "", name)
    return next((metric for metric in METRICS if re.fullmatch(_pattern(metric), plain)), None)


def to_markdown() -> str:
    """Return all sections as Markdown tables."""
    parts = []
    for title, metrics in SECTIONS.items():
        rows = [
            f"| `{each.name}` | {each.meaning} | {each.unit} | {_code(each.trl)} | {each.absent} |"
            for each in metrics
        ]
        head = "| name | meaning | unit | name in TRL | absent if |\n|---|---|---|---|---|"
        parts.append("\n".join([f"## {title}", "", head, *rows]))
    return "\n\n".join(parts) + "\n"


def _code(names: str) -> str:
    return ", ".join(f"`{name}`" for name in names.split(", ") if name)


def _pattern(metric: Metric) -> str:
    pieces = re.split(r"(\{[^}]*\}|[A-Z]{2,})", metric.name)
    return "".join(_piece(piece) for piece in pieces)


def _piece(piece: str) -> str:
    if piece.startswith("{"):
        return f"(?:{'|'.join(map(re.escape, piece[1:-1].split(',')))})"
    return "[^/]+" if piece.isupper() else re.escape(piece)
