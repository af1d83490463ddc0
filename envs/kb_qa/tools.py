"""Tools of the handbook; the search returns titles only, so an answer requires an open section."""

import re
import sqlite3

HITS = 5
TITLE_WEIGHT = 3
"""Weight of a word in the title relative to a word in the text."""


def search(db: sqlite3.Connection, query: str) -> str:
    """Ids and titles of the sections that fit best, at most five.

    Args:
        query: a name, or a few words.
    """
    wanted = _words(query)
    if not wanted:
        raise ValueError("the query holds no word")
    scored = [
        (TITLE_WEIGHT * len(wanted & _words(title)) + len(wanted & _words(body)), id_, title)
        for id_, title, body in db.execute("SELECT id, title, body FROM sections")
    ]
    best = sorted((-score, id_, title) for score, id_, title in scored if score)[:HITS]
    return "\n".join(f"{id_} {title}" for _, id_, title in best) or "nothing found"


def open_section(db: sqlite3.Connection, section: str) -> str:
    """The text of a section.

    Args:
        section: its id.
    """
    found = db.execute("SELECT title, body FROM sections WHERE id = ?", (section,)).fetchone()
    if found is None:
        raise LookupError(f"no section '{section}'")
    return f"{found[0]}\n{found[1]}"


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.casefold()))
