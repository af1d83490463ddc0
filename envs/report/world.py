"""Lays out one episode's folder: a table for each kind of goods, drawn from a seed. Standard library only: it runs in the box."""

from __future__ import annotations

import random
from pathlib import Path

from report_names import COLUMNS, ITEMS


def lay_out(folder: Path, seed: int) -> None:
    """One CSV file a kind, with three to five of its items. No number stands twice in a column, so most and least are one item."""
    rng = random.Random(seed)
    for kind, items in ITEMS.items():
        drawn = rng.sample(items, rng.randint(3, 5))
        columns = [rng.sample(range(11, 99), len(drawn)) for _ in COLUMNS]
        rows = zip(drawn, *columns, strict=True)
        lines = [",".join(("item", *COLUMNS)), *(",".join(map(str, row)) for row in rows)]
        (folder / f"{kind}.csv").write_text(
            "".join(f"{line}\n" for line in lines), encoding="utf-8"
        )
