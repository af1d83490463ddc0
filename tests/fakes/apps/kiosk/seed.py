"""Initial rows of the kiosk for a seed."""

import random
import time

from names import NAMES, SHELVES

SLOW_SEED = 1_000_001
BROKEN_SEED = 1_000_002


def fill(db, seed):
    if seed == BROKEN_SEED:
        raise RuntimeError("no rows for this seed")
    if seed == SLOW_SEED:
        time.sleep(30)
    rng = random.Random(seed)
    # Items precede the shelves that they refer to: references are checked at the end.
    items = [
        (f"I{index}", f"{rng.choice(NAMES)} {index}", rng.randint(0, 1000), rng.choice(SHELVES))
        for index in range(20)
    ]
    db.executemany("INSERT INTO items VALUES (?, ?, ?, ?)", items)
    db.executemany("INSERT INTO shelves VALUES (?)", [(name,) for name in SHELVES])
