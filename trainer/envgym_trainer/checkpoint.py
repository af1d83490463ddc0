"""What a run needs to go on exactly where it stopped: the learner's state, and how far the story had come.

Task order and sampling seeds are functions of (seed, step) and of the curriculum's state, so there is no other random state.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from envgym_trainer.learner import Learner


@dataclass
class Progress:
    """How far a run has come."""

    step: int = 0
    """Updates made, warm start and GRPO on one axis."""
    evaluations: dict[str, Any] = field(default_factory=dict)
    """Finished evaluations by name (`base`, `warm start`, `trained`), as JSON."""
    sampler: dict[str, Any] = field(default_factory=dict)
    """State of the task sampler: pass rates, open levels, horizon."""


def save(folder: Path, learner: Learner, progress: Progress) -> None:
    """Writes into an empty folder; the caller makes it appear at once."""
    torch.save(learner.state_dict(), folder / "learner.pt")
    (folder / "progress.json").write_text(json.dumps(asdict(progress)), encoding="utf-8")


def load(folder: Path, learner: Learner) -> Progress:
    """Puts a checkpoint back into the learner. Raises UsageError when it belongs to another adapter."""
    learner.load_state_dict(torch.load(folder / "learner.pt", weights_only=True))
    return Progress(**json.loads((folder / "progress.json").read_text(encoding="utf-8")))
