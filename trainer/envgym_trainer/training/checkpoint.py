"""Save and load the state of a run for an exact resume.

    checkpoints/step-000010/
      learner.pt        adapter, optimizer, counters, torch's random state
      parts.pt          {name: state_dict()} of controllers, task sampler and other stateful objects
      progress.json     `Progress`
      manifest.json     sha256 of the other files; written last

Task order and sampling seeds depend only on (seed, step) and these states. Not supported:
environments or rewards that use the global generators of Python or numpy. See `run/folder.py` for
folders and `resume.py` for the choice of a checkpoint.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from envgym.errors import UsageError
from envgym_trainer.learner.learner import Learner

MANIFEST = "manifest.json"


class Stateful(Protocol):
    """Object of a run with a state of numbers, strings, lists, dicts and tensors."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class DamagedCheckpoint(UsageError):
    """Error for a checkpoint that does not match its manifest."""


@dataclass
class Progress:
    """Progress of a run."""

    step: int = 0
    """Updates made, counting warm start and GRPO together."""
    evaluations: dict[str, Any] = field(default_factory=dict)
    """Finished evaluations by name (`base`, `warm start`, `trained`), as JSON."""
    validated: int = 0
    """Last step with a finished validation."""
    best: dict[str, float] | None = None
    """Validation with the highest success: {"step", "success", "tasks"}."""
    written: dict[str, int] = field(default_factory=dict)
    """Size in bytes of each JSONL file at this progress. Later lines belong to unfinished work."""


def save(
    folder: Path,
    learner: Learner,
    progress: Progress,
    stateful: Mapping[str, Stateful] | None = None,
) -> None:
    """Write a checkpoint into an empty folder. The caller renames the folder to publish it."""
    torch.save(learner.state_dict(), folder / "learner.pt")
    torch.save(
        {name: each.state_dict() for name, each in (stateful or {}).items()}, folder / "parts.pt"
    )
    (folder / "progress.json").write_text(json.dumps(asdict(progress)), encoding="utf-8")
    (folder / MANIFEST).write_text(
        json.dumps({file.name: _sha256(file) for file in sorted(folder.iterdir())}),
        encoding="utf-8",
    )


def load(
    folder: Path, learner: Learner, stateful: Mapping[str, Stateful] | None = None
) -> Progress:
    """Load a checkpoint into the learner and the stateful objects.

    An object without a saved state is unchanged.

    Raises:
        DamagedCheckpoint: Before any state is changed.
        UsageError: If the checkpoint belongs to another adapter.
    """
    verify(folder)
    try:
        state = torch.load(folder / "learner.pt", weights_only=True)
        states = (
            torch.load(folder / "parts.pt", weights_only=True)
            if (folder / "parts.pt").exists()
            else {}
        )
        progress = Progress(**json.loads((folder / "progress.json").read_text(encoding="utf-8")))
    except Exception as error:  # torch.load raises many types
        raise _damaged(folder, f"{type(error).__name__}: {error}") from error
    learner.load_state_dict(state)
    for name, each in (stateful or {}).items():
        if name in states:
            each.load_state_dict(states[name])
    return progress


def verify(folder: Path) -> None:
    """Raise DamagedCheckpoint for the first file that is missing or differs from the manifest."""
    if not (folder / MANIFEST).exists():  # written by an earlier version
        return
    try:
        expected: dict[str, str] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except ValueError:
        raise _damaged(folder / MANIFEST, "not JSON") from None
    for name, digest in expected.items():
        if not (folder / name).is_file():
            raise _damaged(folder / name, "missing")
        if _sha256(folder / name) != digest:
            raise _damaged(
                folder / name,
                f"{(folder / name).stat().st_size} bytes that differ from the manifest",
            )


def _damaged(place: Path, what: str) -> DamagedCheckpoint:
    return DamagedCheckpoint(f"{place}: damaged checkpoint ({what})")


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
