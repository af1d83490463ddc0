"""Tool of the meeting desk."""

import sqlite3


def set_room(db: sqlite3.Connection, meeting: str, room: int) -> str:
    """Move a meeting to another room."""
    if not db.execute("UPDATE meetings SET room = ? WHERE id = ?", (room, meeting)).rowcount:
        raise LookupError(f"no meeting {meeting}")
    return "ok"
