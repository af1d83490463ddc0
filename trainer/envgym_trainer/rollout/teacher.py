"""Teacher for self-training: an earlier copy of the policy's adapter, or a moving average of it.

Source of the fixed teacher: SRT, arXiv 2505.21444. Source of the moving average: mean teachers,
Tarvainen and Valpola, arXiv 1703.01780, sec. 2.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from envgym_trainer.model.lora import trainable, with_adapter


class Teacher:
    """Second set of adapter weights. The state is stored in checkpoints.

    Args:
        model: Model that is trained. The teacher starts as a copy of its adapter.
        decay: Fraction of the teacher that is kept in an update. 1 keeps the teacher fixed.
    """

    def __init__(self, model: Any, *, decay: float):
        self.model = model
        self.decay = decay
        self.adapter: dict[str, Tensor] = {
            name: value.detach().clone() for name, value in trainable(model).items()
        }
        """Adapter weights by name."""

    @torch.no_grad()
    def update(self) -> None:
        """Move the adapter `1 - decay` of the way to the model's adapter."""
        if self.decay == 1:
            return
        for name, value in trainable(self.model).items():
            self.adapter[name].lerp_(value.detach(), 1 - self.decay)

    def applied(self) -> AbstractContextManager[None]:
        """Return a context in which the model has the teacher's adapter."""
        return with_adapter(trainable(self.model), self.adapter)

    def state_dict(self) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in self.adapter.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        devices = {name: value.device for name, value in trainable(self.model).items()}
        self.adapter = {name: value.to(devices[name]) for name, value in state.items()}
