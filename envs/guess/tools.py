"""Tool of the guessing game."""

import sqlite3


def guess(db: sqlite3.Connection, number: int) -> str:
    """Guess the number

    Args:
        number: a whole number.
    """
    hidden, highest = db.execute("SELECT number, highest FROM secret").fetchone()
    if not 1 <= number <= highest:
        raise ValueError(f"guess from 1 to {highest}")
    db.execute("INSERT INTO guesses (number) VALUES (?)", (number,))
    return "correct" if number == hidden else "higher" if hidden > number else "lower"
