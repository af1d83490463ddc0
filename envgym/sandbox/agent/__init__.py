"""Agent that runs an app's tools inside a box. Standard library only; `python path/to/agent`.

Loads the app once, then answers JSON lines from stdin on stdout, one request a line. Needs Python
3.11 and SQLite 3.37, on Linux or macOS. With isolation `fork` or `namespaces` each session is a
forked child (`fork/`); with isolation `state` a session is a database in the agent
(`serve.py`). The end of stdin ends everything. Output of tools goes to stderr. The protocol in one
example:

    -> {"root": "/app", "tools": ["crm/tools.py"], "schema": "crm/schema.sql",
        "seed": "crm/seed.py:fill", "files": null, "isolation": "fork", "output_bytes": 65536, ...}
    <- {"id": 0, "result": [schema of each tool]}
    -> {"id": 1, "op": "open", "session": "s1", "seed": 7, "timeout": 5}
    <- {"id": 1, "result": "5f0c..."}  # hash of the start state
    -> {"id": 2, "op": "call", "session": "s1", "tool": "greet", "arguments": {},
        "now": "2026-03-02", "timeout": 5}
    <- {"id": 2, "result": {"text": "hi", "ok": true, "seconds": 0.0001}}
    -> {"id": 3, "op": "diff", "session": "s1", "timeout": 5}
    <- {"id": 3, "error": {"kind": "timeout", "message": "..."}}

Other operations: `finish` (ends the session's processes, returns the final state), `exchange`
(`relay.py`), `image`, `ping` and `close` (no answer). With isolation `check` an agent loads no app
and runs one hidden test (`verify.py`). Not supported: hiding sessions of one user id from each
other, a fixed wall clock, reproducible kernel randomness.
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
