"""Fill one episode's folder from a seed: a table for each kind of goods.

Uses only the standard library, because it runs in the sandbox.
"""

from __future__ import annotations

import random
from pathlib import Path

from names import COLUMNS, ITEMS


def lay_out(folder: Path, seed: int) -> None:
    """Write one CSV file per kind, with three to five of its items.

    The numbers of a column are distinct, so that the most and the least are unique.
    """
    rng = random.Random(seed)
    for kind, items in ITEMS.items():
        drawn = rng.sample(items, rng.randint(3, 5))
        columns = [rng.sample(range(11, 99), len(drawn)) for _ in COLUMNS]
        rows = zip(drawn, *columns, strict=True)
        lines = [",".join(("item", *COLUMNS)), *(",".join(map(str, row)) for row in rows)]
        (folder / f"{kind}.csv").write_text(
            "".join(f"{line}\n" for line in lines), encoding="utf-8"
        )
