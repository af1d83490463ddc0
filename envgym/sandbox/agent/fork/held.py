"""Sessions as the agent holds them: the process, and descriptors of the state it leaves."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field

from .children import Child


@dataclass(eq=False)
class Held:
    """Session from its opening until it is closed. It outlives its process."""

    name: str
    seed: int
    image: bytes
    """Database of the start state."""
    tree: bytes = b""
    """Files of the start state as JSON. Empty if the app has no files."""
    key: str = ""
    """Hash of the start state. Empty until the session is open."""
    child: Child | None = None
    """Process that runs the tools. `None` after its end."""
    descriptors: list[int] = field(default_factory=list)
    """Private folder and database file, received before any tool ran."""

    @property
    def is_open(self) -> bool:
        return len(self.descriptors) == 2 and bool(self.key)

    def release(self) -> None:
        """Close the descriptors. The state is lost."""
        for descriptor in self.descriptors:
            with contextlib.suppress(OSError):
                os.close(descriptor)
        self.descriptors.clear()
