"""Fill the tables of one episode."""

import random
import sqlite3


def build(db: sqlite3.Connection, seed: int) -> None:
    """Add eight meetings."""
    for number in random.Random(seed).sample(range(100, 1000), 8):
        db.execute("INSERT INTO meetings VALUES (?, ?)", (f"M{number}", number % 20))
