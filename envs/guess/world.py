"""Hide a number."""

import random
import sqlite3


def build(db: sqlite3.Connection, seed: int) -> None:
    """Hide a number from 1 to 15, drawn uniformly."""
    _hide(db, seed, highest=15)


def build_long(db: sqlite3.Connection, seed: int) -> None:
    """Hide a number from 1 to 63, which needs two more guesses."""
    _hide(db, seed, highest=63)


def _hide(db: sqlite3.Connection, seed: int, *, highest: int) -> None:
    db.execute(
        "INSERT INTO secret (number, highest) VALUES (?, ?)",
        (random.Random(seed).randint(1, highest), highest),
    )
