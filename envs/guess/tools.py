"""The game's only tool."""

import sqlite3


def guess(db: sqlite3.Connection, number: int) -> str:
    """Guess the number

    Args:
        number: a whole number from 1 to 15.
    """
    if not 1 <= number <= 15:
        raise ValueError("guess from 1 to 15")
    hidden = db.execute("SELECT number FROM secret").fetchone()[0]
    db.execute("INSERT INTO guesses (number) VALUES (?)", (number,))
    return "correct" if number == hidden else "higher" if hidden > number else "lower"
