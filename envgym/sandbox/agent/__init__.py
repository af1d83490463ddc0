"""Runs a company's tools inside a box: standard library only, started as `python path/to/agent`.

It loads the app once and then answers JSON lines on stdin/stdout, one request a line. With isolation `fork` it is a zygote
(`zygote.py`): each session is a forked child with a database of its own, tools never run in the agent itself, and a call past
its deadline ends its child alone. With isolation `state` (`serve.py`) a session is only a database in the agent: the fastest,
but a stuck tool can then be stopped only by ending the whole box. End of stdin ends everything. What a tool prints goes to
stderr. Needs Python 3.11 and SQLite 3.37; runs on Linux and macOS.

    -> {"root": "/app", "tools": ["crm/tools.py"], "schema": "crm/schema.sql", "seed": "crm/seed.py:fill",
        "files": null, "isolation": "fork", "output_bytes": 65536, "documents": {"orders/openapi.yaml": {...}}, ...}
    <- {"id": 0, "result": [schema of each tool]}
    -> {"id": 1, "op": "open", "session": "s1", "seed": 7, "timeout": 5}
    <- {"id": 1, "result": "5f0c..."}                                hash of the state it starts from
    -> {"id": 2, "op": "call", "session": "s1", "tool": "greet", "arguments": {}, "now": "2026-03-02", "timeout": 5}
    <- {"id": 2, "result": {"text": "hi", "ok": true, "seconds": 0.0001}}
    -> {"id": 3, "op": "exchange", "session": "s1", "server": "notes", "lines": ["{...}"], "patience": 5, "timeout": 6}
    <- {"id": 3, "result": ["{...}"]}                                lines of an MCP server of the hello's `servers` (`relay.py`)
    -> {"id": 4, "op": "diff", "session": "s1", "timeout": 5}       also: tree, verify (ends the session), ping; close (no answer)
    <- {"id": 4, "error": {"kind": "timeout", "message": "..."}}

Loading, describing and table images are plain functions, which the host uses as well.

Not covered: hiding one session from a hostile other one (they share a user id), the wall clock, randomness from the kernel.
"""

from .app import LoadedApp, is_document, load_app, load_module, schema_sql
from .describe import describe_tool
from .errors import AppError, BoxError
from .session import Desk, cut
from .tables import diff_tables, prepare_image

__all__ = [
    "AppError",
    "BoxError",
    "Desk",
    "LoadedApp",
    "cut",
    "describe_tool",
    "diff_tables",
    "is_document",
    "load_app",
    "load_module",
    "prepare_image",
    "schema_sql",
]
