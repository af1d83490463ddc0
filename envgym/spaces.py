"""Gymnasium space for arbitrary Unicode text.

`gymnasium.spaces.Text` rejects spaces and letters outside its alphabet, and returns wrong strings
through the default shared memory of `AsyncVectorEnv`. `UnicodeText` accepts any string. The
handlers below support it in `make_vec`, sync and async, with `shared_memory` on or off: a batch is
a tuple of strings. Not supported: flattening to a Box.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.spaces import Space
from gymnasium.vector.utils import (
    create_empty_array,
    create_shared_memory,
    read_from_shared_memory,
    write_to_shared_memory,
)

WORDS = (
    "please",
    "update",
    "the",
    "phone",
    "of",
    "Zoë",
    "to",
    "+1 555 0100,",
    "note:",
    "größer",
    "than",
    "日本",
    "done.",
    "\n",
)


class UnicodeText(Space[str]):
    """Space of all strings, optionally limited in length.

    Args:
        max_length: Maximum number of code points; None for no limit.
        seed: Seed of `sample`, which draws a few words.
    """

    def __init__(
        self, max_length: int | None = None, *, seed: int | np.random.Generator | None = None
    ):
        if max_length is not None and max_length < 0:
            raise ValueError(
                f"max_length must be 0 or more, or None for no limit, got {max_length}"
            )
        self.max_length = max_length
        super().__init__(shape=None, dtype=None, seed=seed)

    @property
    def is_np_flattenable(self) -> bool:
        return False

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        """Return a few words, cut to `max_length`. Equal seeds give equal samples."""
        if mask is not None or probability is not None:
            raise ValueError("UnicodeText.sample takes neither mask nor probability")
        count = int(self.np_random.integers(1, 9))
        words = [WORDS[i] for i in self.np_random.integers(0, len(WORDS), count)]
        return " ".join(words)[: self.max_length]

    def contains(self, x: Any) -> bool:
        return isinstance(x, str) and (self.max_length is None or len(x) <= self.max_length)

    def to_jsonable(self, sample_n: Sequence[str]) -> list[str]:  # type: ignore[override]
        return list(sample_n)

    def from_jsonable(self, sample_n: list[str]) -> list[str]:
        return list(sample_n)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, UnicodeText) and self.max_length == other.max_length

    def __hash__(self) -> int:
        return hash((UnicodeText, self.max_length))

    def __repr__(self) -> str:
        return f"UnicodeText(max_length={self.max_length})"


class Mailbox:
    """Folder through which the workers of an `AsyncVectorEnv` pass strings.

    It has one file per environment. Gymnasium's shared memory needs a fixed size, which text does
    not have. The worker's pipe signals that a file is complete, so no lock is needed. The folder is
    deleted when the process that created it exits.
    """

    def __init__(self, count: int):
        self.count = count
        self.folder = Path(tempfile.mkdtemp(prefix="envgym-text-"))
        weakref.finalize(self, _remove, self.folder, os.getpid())

    def write(self, index: int, text: str) -> None:
        # surrogatepass: any str is preserved, half surrogate pairs included.
        (self.folder / str(index)).write_bytes(text.encode("utf-8", "surrogatepass"))

    def read(self, index: int) -> str:
        try:
            return (self.folder / str(index)).read_bytes().decode("utf-8", "surrogatepass")
        except FileNotFoundError:  # the environment was not reset yet
            return ""


def _remove(folder: Path, owner: int) -> None:
    # A forked worker inherits the finalizer and must not delete the folder of the other workers.
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)


class LiveTexts(Sequence[str]):
    """Current strings of a `Mailbox`. Vector environments return a deep copy, which is a tuple."""

    def __init__(self, mailbox: Mailbox):
        self._mailbox = mailbox

    def __len__(self) -> int:
        return self._mailbox.count

    def __getitem__(self, index: Any) -> Any:
        return tuple(map(self._mailbox.read, range(len(self))))[index]

    def __deepcopy__(self, memo: dict[int, Any]) -> tuple[str, ...]:
        return tuple(self)


@create_shared_memory.register(UnicodeText)
def _create_shared(space: UnicodeText, n: int = 1, ctx: Any = None) -> Any:
    return Mailbox(n)


@read_from_shared_memory.register(UnicodeText)
def _read_shared(space: UnicodeText, shared_memory: Mailbox, n: int = 1) -> Any:
    return LiveTexts(shared_memory)


@write_to_shared_memory.register(UnicodeText)
def _write_shared(space: UnicodeText, index: int, value: str, shared_memory: Mailbox) -> None:
    shared_memory.write(index, value)


@create_empty_array.register(UnicodeText)
def _create_empty(space: UnicodeText, n: int = 1, fn: Any = None) -> tuple[str, ...]:
    return ("",) * n
