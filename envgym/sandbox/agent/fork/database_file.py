"""Database of a session as a file that the session's process writes and a judge reads.

The file has no name: it is unlinked as soon as it is open, so no program that a tool starts can
open or replace it, and it is freed with its last descriptor.
"""

from __future__ import annotations

import contextlib
import os

RESERVE_BYTES = 64 * 1024
"""Space allocated in advance, so that small changes succeed if another session fills the disk."""
MOST_BYTES = 64 * 2**20
"""Maximum size of a database in bytes that a judge reads, or `MOST_GROWTH` times the image."""
MOST_GROWTH = 4
MAGIC = b"SQLite format 3\0"
ROLLBACK_JOURNAL = b"\x01\x01"
"""Bytes 18 and 19 of a database whose changes are all in its main file."""


class Unreadable(Exception):
    """The file is no database that can be compared. The message has the reason."""


def write_database(image: bytes, path: str) -> int:
    """Write a new database file and return a descriptor to read it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        written = 0
        while written < len(image):
            written += os.write(descriptor, image[written:])
        with contextlib.suppress(OSError, AttributeError):
            os.posix_fallocate(descriptor, len(image), RESERVE_BYTES)
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(descriptor)


def read_database(descriptor: int, image: bytes) -> bytes | None:
    """Return the bytes of a database, or `None` if they equal the image.

    Source: https://sqlite.org/fileformat2.html, section 1.3.

    Raises:
        Unreadable: If it is no database, or larger than the limit.
    """
    header = os.pread(descriptor, 100, 0)
    if header[:16] != MAGIC:
        raise Unreadable("it is not an SQLite database")
    if header[18:20] != ROLLBACK_JOURNAL:
        raise Unreadable("it has a write-ahead log")
    page = int.from_bytes(header[16:18], "big")
    size = (65536 if page == 1 else page) * int.from_bytes(header[28:32], "big")
    most = max(MOST_BYTES, MOST_GROWTH * len(image))
    if size > most:
        raise Unreadable(f"it has more than {most >> 20} MiB")
    data = _read(descriptor, size)
    if not size or len(data) < size:
        raise Unreadable("pages are missing")
    return None if data == image else data


def _read(descriptor: int, size: int) -> bytes:
    parts = []
    have = 0
    while have < size and (part := os.pread(descriptor, size - have, have)):
        parts.append(part)
        have += len(part)
    return b"".join(parts)
