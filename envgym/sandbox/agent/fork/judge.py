"""Judge: a process that compares the state of a session with its start, apart from the session.

Code that a model wrote may run in the session's process, so nothing that this process says about
its state counts. A judge is forked from the agent, which runs no tool. For each request it gets
descriptors of the session's database file and private folder. It needs no space on any disk and no
cooperation of the session, which may be dead. State that cannot be compared is the doing of the
session: it is reported as one row of the table `[state]`, which no task expects.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import sqlite3
import sys
import traceback
from collections import OrderedDict
from typing import Any

from ..file_tree import Tree, from_plain
from ..protocol import Reply, Request, encode
from ..tables import RowChanges, diff_tables, prepare_image
from ..work_folder import FOLDER, Files, read_files
from .database_file import Unreadable, read_database

TABLE = "[state]"
"""Name of the table whose only row means that the state could not be compared."""
KEPT_STARTS = 4
"""Number of start states that a judge keeps, so that the sessions of a group send it once."""
MEMORY_BYTES = 2**30
REPLY_BYTES = 32 * 2**20
"""Maximum size of an answer. More changes than fit into it are not compared."""
NO_FILES = {"tree": {}, "problem": ""}


def not_compared(problem: str, *, op: str) -> dict[str, Any]:
    """Return the result of a request whose session has a state that cannot be compared."""
    row = {"problem": f"not compared: {problem}"}
    changes: RowChanges = {TABLE: {"added": [row], "removed": []}}
    if op == "diff":
        return changes
    return {"changes": changes, "tree": {}, "problem": f"not checked: {problem}"}


def request_to_judge(request: Request, key: str, *, cpu_seconds: float, sizes: list[int]) -> bytes:
    """Return the first line of a request. `sizes` are those of the image and the tree after it."""
    return encode(
        {
            "id": request["id"],
            "op": request["op"],
            "keep_files": request.get("keep_files", False),
            "key": key,
            "cpu_seconds": cpu_seconds,
            "sizes": sizes,
        }
    )


class Judge:
    """Work of one judge, which runs in a child of the agent until its socket ends."""

    def __init__(self) -> None:
        self._starts: OrderedDict[str, tuple[bytes, Tree | None]] = OrderedDict()

    def serve(self, end: socket.socket) -> None:
        """Answer requests one by one."""
        # An endless comparison ends this process. The agent ignores the signal.
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        _limit_memory()
        _rehearse()
        while True:
            data, descriptors, _, _ = socket.recv_fds(end, 1 << 16, 2)
            if not data:
                return
            line, _, rest = data.partition(b"\n")
            header = json.loads(line)
            self._keep_start(header, end, rest)
            signal.setitimer(signal.ITIMER_PROF, header["cpu_seconds"])
            try:
                end.sendall(self._answer(header, *descriptors))
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
                for descriptor in descriptors:
                    os.close(descriptor)

    def _keep_start(self, header: dict[str, Any], end: socket.socket, rest: bytes) -> None:
        """Receive the start state that follows the line, unless it is known."""
        if not header["sizes"]:
            return
        data = bytearray(rest)
        while len(data) < sum(header["sizes"]) and (part := end.recv(1 << 18)):
            data += part
        image = bytes(data[: header["sizes"][0]])
        tree = bytes(data[header["sizes"][0] :])
        self._starts[header["key"]] = (image, from_plain(json.loads(tree)) if tree else None)
        while len(self._starts) > KEPT_STARTS:
            self._starts.popitem(last=False)

    def _answer(self, header: dict[str, Any], folder: int, database: int) -> bytes:
        image, start = self._starts[header["key"]]
        op = header["op"]
        try:
            result = _result(header, image, start, folder, database)
        except (Unreadable, sqlite3.Error) as error:
            result = not_compared(f"the database cannot be read: {error}", op=op)
        except MemoryError:
            result = not_compared("the comparison needs too much memory", op=op)
        except Exception as error:  # A hostile database must not end in an answer that is missing.
            traceback.print_exc()
            sys.stderr.flush()
            result = not_compared(f"{type(error).__name__}: {error}", op=op)
        reply: Reply = {"id": header["id"], "result": result}
        line = encode(reply)
        if len(line) > REPLY_BYTES:
            result = not_compared(f"the changes have more than {REPLY_BYTES >> 20} MiB", op=op)
            line = encode(reply | {"result": result})
        return line


def _result(
    header: dict[str, Any], image: bytes, start: Tree | None, folder: int, database: int
) -> dict[str, Any]:
    changes = table_changes(database, image)
    files = None if start is None else read_files(FOLDER, parent=folder)
    if files is not None and start is not None:
        changes |= files.changes(start)
    if header["op"] == "diff":
        return changes
    return {"changes": changes, **_handed_over(files, keep=header["keep_files"])}


def _handed_over(files: Files | None, *, keep: bool) -> dict[str, Any]:
    return files.hand_over() if files is not None and keep else NO_FILES


def table_changes(database: int, image: bytes) -> RowChanges:
    """Return the changes of all tables in a database file since its image.

    Raises:
        Unreadable, sqlite3.Error: If the file is no database that can be compared.
    """
    now = read_database(database, image)
    if now is None:
        return {}
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        db.deserialize(now)
        # The schema may be hostile: it may not call functions with side effects.
        db.execute("PRAGMA trusted_schema = OFF")
        db.execute("PRAGMA cell_size_check = ON")
        return diff_tables(db, image, now=now)


def _limit_memory() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    most = MEMORY_BYTES if soft == resource.RLIM_INFINITY else min(soft, MEMORY_BYTES)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_DATA, (most, hard))


def _rehearse() -> None:
    """Compare an empty database, because the first use allocates memory and is slow."""
    image = prepare_image(None, None, 0)
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        db.deserialize(image)
        diff_tables(db, image)
