"""Hides a number from 1 to 15."""

import random
import sqlite3

HIGHEST = 15


def build(db: sqlite3.Connection, seed: int) -> None:
    """Draws the hidden number; every one is equally likely."""
    db.execute("INSERT INTO secret (number) VALUES (?)", (random.Random(seed).randint(1, HIGHEST),))
