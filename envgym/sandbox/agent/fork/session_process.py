"""Code that runs in the forked children of the fork server: build a state, serve, check."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import socket
import tempfile
from typing import Any, BinaryIO

from ..app import LoadedApp
from ..errors import AppError, BoxError, tail_of
from ..file_tree import to_plain
from ..protocol import Reply, Request, answer, attempt, encode, failed
from ..session import Desk
from ..tables import pack_image, prepare_image, unpack_image
from .database_file import write_database
from .session_limits import limit_files

DATABASE = "state.db"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN)
"""Errors if the box has no disk, memory, process or descriptor left for another session."""


def hash_of_files(tree: bytes) -> str:
    """Return a hash by which the agent and its children compare start trees."""
    return hashlib.sha256(tree).hexdigest()


class _Opened:
    """Session that was opened: its desk, and the descriptors of its state for the agent."""

    def __init__(self) -> None:
        self.desk: Desk | None = None
        self.descriptors: list[int] = []


class SessionProcess:
    """Work of one child. Each method runs in a child and returns when the child may end.

    Args:
        app: The loaded app.
        output_bytes: Maximum output of one tool call in bytes.
        scratch: Folder of the box, in which each session has a folder of its own.
        open_files: Maximum number of open files of each process of a session.
    """

    def __init__(self, app: LoadedApp, *, output_bytes: int, scratch: str, open_files: int):
        self.app = app
        self.output_bytes = output_bytes
        self.scratch = scratch
        self.open_files = open_files

    def folder(self, session: str) -> str:
        """Return the folder of a session."""
        return os.path.join(self.scratch, session)

    def build(self, seed: int, end: socket.socket) -> None:
        """Send the start state of a seed, or the error of the seed function."""
        try:
            image = prepare_image(self.app.schema_sql, self.app.seed_function, seed)
        except Exception as error:
            end.sendall(
                b"error\n"
                + (str(error) if isinstance(error, AppError) else tail_of(error)).encode(
                    "utf-8", "replace"
                )
            )
        else:
            end.sendall(b"image\n" + image)

    def serve_now(self, opening: Request, image: bytes, end: socket.socket) -> None:
        """Serve the session of an `open` request until the socket ends."""
        with end.makefile("rb") as requests:
            self._serve(opening, image, end, requests)

    def serve_later(self, end: socket.socket) -> None:
        """Serve the session that a later `open` request on the socket names."""
        self.rehearse()
        end.sendall(b".")
        with end.makefile("rb") as requests:
            if line := requests.readline():
                opening = json.loads(line)
                self._serve(opening, requests.read(opening["image_bytes"]), end, requests)

    def rehearse(self) -> None:
        """Open an empty database, because the first use allocates memory and is slow."""
        image = unpack_image(pack_image(prepare_image(self.app.schema_sql, None, 0)))
        tables_alone = dataclasses.replace(self.app, lay_out=None)
        Desk(tables_alone, image, 0, output_bytes=self.output_bytes).close()

    def _serve(
        self, opening: Request, image: bytes, end: socket.socket, requests: BinaryIO
    ) -> None:
        opened = _Opened()
        reply = attempt(opening, lambda: self._open(opening, image, opened))
        line = encode(reply | self._files_for_agent(opening, opened.desk))
        # The agent receives the descriptors before any tool runs. They stay valid after the end of
        # this process, and reach a folder that only its own mount namespace has.
        try:
            sent = socket.send_fds(end, [line], opened.descriptors)
        except OSError as error:  # too many descriptors of this user are on their way
            end.sendall(encode(failed(opening, "sandbox_full", f"this box is full: {error}")))
            return
        end.sendall(line[sent:])
        for descriptor in opened.descriptors:
            os.close(descriptor)
        limit_files(self.open_files)
        if desk := opened.desk:
            for request in requests:
                end.sendall(encode(answer(desk, json.loads(request))))

    def _open(self, opening: Request, image: bytes, opened: _Opened) -> str:
        place = self.folder(opening["session"])
        database = os.path.join(place, DATABASE)
        try:
            _live_in(place)
            opened.descriptors.append(os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
            opened.descriptors.append(write_database(image, database))
            desk = Desk(
                self.app,
                image,
                opening["seed"],
                output_bytes=self.output_bytes,
                place=place,
                database=database,
            )
        except OSError as error:
            if error.errno not in FULL:
                raise
            raise BoxError("sandbox_full", f"this box has no room left: {error}") from None
        os.unlink(database)
        if desk.work:
            os.chdir(desk.work.path)
        opened.desk = desk
        return desk.state_hash

    def _files_for_agent(self, opening: Request, desk: Desk | None) -> Reply:
        """Return the start tree as a field of the answer, unless the agent has it."""
        if desk is None or desk.work is None:
            return {}
        tree = files_as_bytes(to_plain(desk.work.start))
        return {} if hash_of_files(tree) == opening["files"] else {"files": tree.decode()}


def files_as_bytes(tree: dict[str, Any]) -> bytes:
    """Encode a tree as the judge decodes it."""
    return json.dumps(tree, sort_keys=True, separators=(",", ":")).encode()


def _live_in(folder: str) -> None:
    os.mkdir(folder, 0o700)
    os.chdir(folder)
    os.environ["TMPDIR"] = os.environ["HOME"] = folder
    tempfile.tempdir = None  # Forget a folder that was cached before.
