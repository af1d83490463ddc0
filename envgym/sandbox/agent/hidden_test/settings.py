"""Settings that the check box hands to the test runner, in a file that only the test can read."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

Separation = Literal["users", "namespaces", "none"]
"""How programs are kept from the test: another user id, a user namespace below the test's, or not
at all."""


@dataclass(frozen=True)
class TestSettings:
    """Everything that the test runner needs."""

    kind: str
    """`file`, `module` or `code`."""
    target: str
    arguments: list[str]
    hidden: list[str]
    """Paths of the hidden files, relative to the work folder."""
    private: str
    """Folder that holds the hidden files. Programs cannot read it."""
    work: str
    """Copy of the final files, the current folder of the test and of its programs."""
    home: str
    """Home and temporary folder of the programs."""
    place: str
    """Folder of all of them."""
    separation: Separation
    user: int
    """User and group of the programs, if users differ."""
    environment: dict[str, str] = field(default_factory=dict)
    """Environment of the programs."""
    imports_siblings: bool = True
    """Whether the test's own folder is on `sys.path`."""

    def save(self, file: Path) -> None:
        file.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def load(cls, file: Path) -> TestSettings:
        return cls(**json.loads(file.read_text(encoding="utf-8")))
