"""Database images of start states: build, hash, pack and cache them."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import sqlite3
import zlib
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from .errors import AppError
from .table_diff import RowChanges as RowChanges
from .table_diff import diff_tables as diff_tables
from .table_diff import remember_forms

Image = TypeVar("Image", bytes, str)
"""Serialized database: bytes, or text when packed for the protocol."""


def prepare_image(
    schema_sql: str | None,
    seed_function: Callable[[sqlite3.Connection, int], Any] | None,
    seed: int,
) -> bytes:
    """Build a serialized database with the schema's tables, filled for `seed`.

    `Connection.deserialize` restores it in about 1 ms. Exceptions of the seed function are not
    caught.

    Raises:
        AppError: If SQLite rejects the schema, or a row refers to a missing row.
    """
    with contextlib.closing(sqlite3.connect(":memory:")) as db:
        try:
            # An empty database cannot be serialized; VACUUM writes its header.
            db.executescript("PRAGMA user_version = 0; VACUUM;" + (schema_sql or ""))
        except sqlite3.Error as error:
            raise AppError(
                f"the schema is refused by SQLite {sqlite3.sqlite_version}: {error}"
            ) from None
        # Fills the cache of table layouts, which all forked sessions inherit for their diffs.
        remember_forms(db)
        db.row_factory = sqlite3.Row
        if seed_function is not None:
            seed_function(db, seed)
        db.commit()
        if lost := db.execute("PRAGMA foreign_key_check").fetchone():
            table, row, target, _ = lost
            raise AppError(
                f"state of seed {seed}: row {row} of table '{table}' refers to a missing row "
                f"of '{target}'"
            )
        return db.serialize()


def image_hash(image: bytes) -> str:
    """Return a hash of the start state: 16 hexadecimal digits, equal for equal tables.

    Skips the first 100 bytes, in which SQLite keeps a change counter and its version.
    """
    return hashlib.sha256(image[100:]).hexdigest()[:16]


def pack_image(image: bytes) -> str:
    """Encode an image as text for the protocol."""
    return base64.b64encode(zlib.compress(image, level=1)).decode()


def unpack_image(packed: str) -> bytes:
    return zlib.decompress(base64.b64decode(packed))


class Images(Generic[Image]):
    """LRU cache of images by seed: the episodes of a group share one seed and one build."""

    def __init__(self, *, most: int = 64, most_bytes: int = 64 * 2**20):
        self.most = most
        self.most_bytes = most_bytes
        self._kept: OrderedDict[int, Image] = OrderedDict()

    def get(self, seed: int) -> Image | None:
        if seed in self._kept:
            self._kept.move_to_end(seed)
        return self._kept.get(seed)

    def put(self, seed: int, image: Image) -> Image:
        self._kept[seed] = image
        while len(self._kept) > 1 and (
            len(self._kept) > self.most or sum(map(len, self._kept.values())) > self.most_bytes
        ):
            self._kept.popitem(last=False)
        return image
