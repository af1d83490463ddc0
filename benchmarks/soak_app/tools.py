"""Tools that leave a mark in every place where an episode can, and read all visible marks."""

import glob
import os
import tempfile
from pathlib import Path

marks = []


def leave(db, mark: str) -> int:
    """Leaves a mark in the tables, in files, in the environment and in memory.

    Args:
        mark: A text that no other episode leaves.
    """
    db.execute("INSERT INTO notes (text) VALUES (?)", (mark,))
    with open(os.path.join(tempfile.gettempdir(), "mark"), "a") as file:
        file.write(mark)
    os.environ["MARK"] = os.environ.get("MARK", "") + mark
    marks.append(mark)
    return os.getpid()


def look(db) -> dict:
    """All marks that can be seen."""
    files = [
        Path(file).read_text()
        for folder in (".", tempfile.gettempdir())
        for file in glob.glob(f"{folder}/mark*")
    ]
    return {
        "tables": [row["text"] for row in db.execute("SELECT text FROM notes ORDER BY id")],
        "files": sorted(set(files)),
        "environment": os.environ.get("MARK"),
        "memory": list(marks),
    }
