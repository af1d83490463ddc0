"""Save and load the state of a run for an exact resume.

    checkpoints/step-000010/
      learner.pt        adapter, optimizer, counters, torch's random state
      parts.pt          {name: state_dict()} of controllers, task sampler and other stateful objects
      progress.json     format and `Progress`
      manifest.json     sha256 of the other files; written last

Task order and sampling seeds depend only on (seed, step) and these states. Not supported:
environments or rewards that use the global generators of Python or numpy. See `run/folder.py` for
folders and `resume.py` for the choice of a checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from envgym.errors import UsageError
from envgym_trainer.files import file_sha256, hash_files
from envgym_trainer.learner.learner import Learner

FORMAT = 2
"""Version of the checkpoint's files. Only this version is loaded."""
MANIFEST = "manifest.json"
PROGRESS = "progress.json"


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
    last_validated_step: int = -1
    """Last step with a finished validation."""
    best: dict[str, float] | None = None
    """Validation with the highest success: {"step", "success", "tasks"}."""
    file_sizes: dict[str, int] = field(default_factory=dict)
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
    plain = {"format": FORMAT} | asdict(progress)
    (folder / PROGRESS).write_text(json.dumps(plain), encoding="utf-8")
    manifest = json.dumps(hash_files(folder, skip=MANIFEST))
    (folder / MANIFEST).write_text(manifest, encoding="utf-8")


def load(
    folder: Path, learner: Learner, stateful: Mapping[str, Stateful] | None = None
) -> Progress:
    """Load a checkpoint into the learner and the stateful objects.

    Raises:
        DamagedCheckpoint: Before any state is changed.
        UsageError: Before any state is changed, if the checkpoint has another format, other parts
            or another adapter.
    """
    stateful = stateful or {}
    verify(folder)
    try:
        state = torch.load(folder / "learner.pt", weights_only=True)
        states = torch.load(folder / "parts.pt", weights_only=True)
        plain = _read_progress(folder)
        plain.pop("format")
        progress = Progress(**plain)
    except Exception as error:  # torch.load raises many types
        raise _damaged(folder, f"{type(error).__name__}: {error}") from error
    _require_equal_parts(folder, states.keys(), stateful.keys())
    learner.load_state_dict(state)
    for name, each in stateful.items():
        each.load_state_dict(states[name])
    return progress


def verify(folder: Path) -> None:
    """Check a checkpoint's files and its format.

    Raises:
        DamagedCheckpoint: For the first file that is missing or differs from the manifest.
        UsageError: If the checkpoint has another format.
    """
    if not (folder / MANIFEST).exists():
        _require_format(folder)
        raise _damaged(folder / MANIFEST, "missing")
    try:
        expected: dict[str, str] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except ValueError:
        raise _damaged(folder / MANIFEST, "not JSON") from None
    for name, digest in expected.items():
        if not (folder / name).is_file():
            raise _damaged(folder / name, "missing")
        if file_sha256(folder / name) != digest:
            raise _damaged(
                folder / name,
                f"{(folder / name).stat().st_size} bytes that differ from the manifest",
            )
    _require_format(folder)


def _require_format(folder: Path) -> None:
    try:
        found = _read_progress(folder).get("format", 1)
    except (OSError, ValueError):
        raise _damaged(folder / PROGRESS, "not JSON") from None
    if found != FORMAT:
        raise UsageError(
            f"{folder} has checkpoint format {found}, but this version of envgym reads format "
            f"{FORMAT} only: start the run again without --resume, or resume it with the version "
            "that wrote it."
        )


def _require_equal_parts(folder: Path, saved: Collection[str], wanted: Collection[str]) -> None:
    if set(saved) == set(wanted):
        return
    raise UsageError(
        f"{folder} holds the state of {_listed(saved)}, but this run needs {_listed(wanted)}. "
        "Start the run again without --resume, or resume it with the version that wrote it."
    )


def _listed(names: Collection[str]) -> str:
    return ", ".join(sorted(names)) or "no parts"


def _read_progress(folder: Path) -> dict[str, Any]:
    return json.loads((folder / PROGRESS).read_text(encoding="utf-8"))


def _damaged(place: Path, problem: str) -> DamagedCheckpoint:
    return DamagedCheckpoint(f"{place}: damaged checkpoint ({problem})")
