"""What a run needs to go on exactly where it stopped: the learner's state, how far the story had come, and its parts' states.

    checkpoints/step-000010/
      learner.pt        adapter, optimiser, counters, torch's random state
      parts.pt          {name: state_dict()} of whatever else changes as the run goes on: controllers, the task sampler
      progress.json     `Progress`
      manifest.json     sha256 of the others; written last

Task order and sampling seeds are functions of (seed, step) and of the parts' state, so there is no other random state to keep. Not
covered: an environment or a reward that draws from Python's or numpy's global generator. Left out: which folders there are
(`runs.py`) and which of them is taken (`resume.py`).
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
    """A part of a run that changes as it goes on. What it gives must consist of numbers, strings, lists, dicts and tensors."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class DamagedCheckpoint(UsageError):
    """A checkpoint that is not what was written."""


@dataclass
class Progress:
    """How far a run has come."""

    step: int = 0
    """Updates made, warm start and GRPO on one axis."""
    evaluations: dict[str, Any] = field(default_factory=dict)
    """Finished evaluations by name (`base`, `warm start`, `trained`), as JSON."""
    validated: int = 0
    """The last step whose validation is finished."""
    best: dict[str, float] | None = None
    """The validation with the highest success so far: {"step", "success", "tasks"}."""
    written: dict[str, int] = field(default_factory=dict)
    """File of lines -> its bytes that tell of this progress; what follows them is of a step or evaluation not finished."""


def save(
    folder: Path, learner: Learner, progress: Progress, parts: Mapping[str, Stateful] | None = None
) -> None:
    """Writes into an empty folder; the caller makes it appear at once."""
    torch.save(learner.state_dict(), folder / "learner.pt")
    torch.save(
        {name: part.state_dict() for name, part in (parts or {}).items()}, folder / "parts.pt"
    )
    (folder / "progress.json").write_text(json.dumps(asdict(progress)), encoding="utf-8")
    (folder / MANIFEST).write_text(
        json.dumps({file.name: _sha256(file) for file in sorted(folder.iterdir())}),
        encoding="utf-8",
    )


def load(folder: Path, learner: Learner, parts: Mapping[str, Stateful] | None = None) -> Progress:
    """Puts a checkpoint back into the learner and the parts; a part that it does not know stays as it is.

    Raises: DamagedCheckpoint, before anything was put back. UsageError when it belongs to another adapter.
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
    except Exception as error:  # torch.load says it in many ways
        raise _damaged(folder, f"{type(error).__name__}: {error}") from error
    learner.load_state_dict(state)
    for name, part in (parts or {}).items():
        if name in states:
            part.load_state_dict(states[name])
    return progress


def verify(folder: Path) -> None:
    """Raises DamagedCheckpoint naming the first file that is missing or not the one that was written."""
    if not (folder / MANIFEST).exists():  # of an earlier version
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
                f"{(folder / name).stat().st_size} bytes that are not those that were written",
            )


def _damaged(place: Path, what: str) -> DamagedCheckpoint:
    return DamagedCheckpoint(f"{place}: damaged checkpoint ({what})")


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
