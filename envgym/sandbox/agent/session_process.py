"""Code that runs in the forked children of the fork server: build a state, serve."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import tempfile
from typing import BinaryIO

from .app import LoadedApp
from .errors import AppError, tail_of
from .protocol import Request, answer, attempt, encode
from .session import Desk
from .tables import pack_image, prepare_image, unpack_image


class SessionProcess:
    """Work of one child. Each method runs in a child and returns when the child may end.

    Args:
        app: The loaded app.
        output_bytes: Maximum output of one tool call in bytes.
        scratch: Folder of the box, in which each session has a folder of its own.
    """

    def __init__(self, app: LoadedApp, *, output_bytes: int, scratch: str):
        self.app = app
        self.output_bytes = output_bytes
        self.scratch = scratch

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
        """Open and diff an empty database, because the first use allocates memory and is slow."""
        image = unpack_image(pack_image(prepare_image(self.app.schema_sql, None, 0)))
        tables_alone = dataclasses.replace(self.app, lay_out=None)
        desk = Desk(tables_alone, image, 0, output_bytes=self.output_bytes)
        desk.diff()
        desk.close()

    def _serve(
        self, opening: Request, image: bytes, end: socket.socket, requests: BinaryIO
    ) -> None:
        _live_in(self.folder(opening["session"]))
        desks: list[Desk] = []
        end.sendall(encode(attempt(opening, lambda: self._open_desk(opening, image, desks))))
        for line in requests if desks else ():
            end.sendall(encode(answer(desks[0], json.loads(line))))

    def _open_desk(self, opening: Request, image: bytes, desks: list[Desk]) -> str:
        place = self.folder(opening["session"])
        desks.append(
            desk := Desk(
                self.app, image, opening["seed"], output_bytes=self.output_bytes, place=place
            )
        )
        if desk.work:
            os.chdir(desk.work.path)
        return desk.state_hash


def _live_in(folder: str) -> None:
    os.mkdir(folder, 0o700)
    os.chdir(folder)
    os.environ["TMPDIR"] = os.environ["HOME"] = folder
    tempfile.tempdir = None  # Forget a folder that was cached before.
