"""MCP server of a team's notes and calendar, over stdio (`python server.py`) or HTTP (with a port).

It does not depend on envgym. Its last two tools make it an environment: `reset` fills it from a
seed, and `dump` returns all rows.
"""

import sys
from typing import Literal

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from world import Row, build

server = MCPServer("notes", log_level="ERROR")
tables: dict[str, dict[str, Row]] = {"notes": {}, "events": {}}


def _row(table: str, key: str) -> Row:
    if key not in tables[table]:
        raise ToolError(f"no {table[:-1]} {key}")
    return tables[table][key]


def _found(table: str, query: str) -> str:
    rows = [row for row in tables[table].values() if query.lower() in row["title"].lower()]
    return "\n".join(" | ".join(row.values()) for row in rows[:10]) or "nothing found"


def _add(table: str, letter: str, **values: str) -> str:
    key = f"{letter}{1 + max((int(key[1:]) for key in tables[table]), default=0)}"
    tables[table][key] = {"id": key} | values
    return key


@server.tool()
def find_notes(query: str) -> str:
    """Notes whose title holds a text."""
    return _found("notes", query)


@server.tool()
def add_note(title: str, text: str) -> str:
    """Write a note."""
    return _add("notes", "N", title=title, text=text)


@server.tool()
def edit_note(note: str, text: str) -> str:
    """Replace a note's text."""
    _row("notes", note)["text"] = text
    return "ok"


@server.tool()
def delete_note(note: str) -> str:
    """Remove a note."""
    del tables["notes"][_row("notes", note)["id"]]
    return "ok"


@server.tool()
def find_events(query: str) -> str:
    """Events whose title holds a text."""
    return _found("events", query)


@server.tool()
def add_event(title: str, day: str, time: str) -> str:
    """Put an event on the calendar, without a room."""
    return _add("events", "E", title=title, day=day, time=time, room="")


@server.tool()
def set_event(event: str, field: Literal["day", "time", "room"], value: str) -> str:
    """Change when or where an event is."""
    _row("events", event)[field] = value
    return "ok"


@server.tool()
def cancel_event(event: str) -> str:
    """Take an event off the calendar."""
    del tables["events"][_row("events", event)["id"]]
    return "ok"


@server.tool()
def reset(seed: int) -> str:
    """Start anew with the notes and events of a seed."""
    for table, rows in build(seed).items():
        tables[table] = {row["id"]: row for row in rows}
    return "ok"


@server.tool()
def dump() -> dict[str, list[Row]]:
    """All notes and events."""
    return {table: list(rows.values()) for table, rows in tables.items()}


if __name__ == "__main__":
    if len(sys.argv) > 1:
        server.run("streamable-http", port=int(sys.argv[1]))
    else:
        server.run()
