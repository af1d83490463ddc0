"""Who labels in place of the policy that learns: its adapter of an earlier time, or an average over time.

Source: labels of a teacher that does not move, SRT, arXiv 2505.21444; a teacher that is the moving average of the weights, mean
teachers, Tarvainen and Valpola, arXiv 1703.01780, sec. 2.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from envgym_trainer.model.lora import trainable, with_adapter


class Teacher:
    """An adapter beside the model's own. A checkpoint keeps it.

    Args:
        model: that learns.
        decay: share of the teacher that stays when it follows the model; 1 for one that does not move.
    """

    def __init__(self, model: Any, *, decay: float):
        self.model = model
        self.decay = decay
        self.adapter: dict[str, Tensor] = {}
        """Empty until it begins."""

    @property
    def moves(self) -> bool:
        return self.decay < 1

    @torch.no_grad()
    def follow(self) -> None:
        """Begins as the model is now; later goes `1 - decay` of the way to it."""
        for name, value in trainable(self.model).items():
            if name not in self.adapter:
                self.adapter[name] = value.detach().clone()
            elif self.moves:
                self.adapter[name].lerp_(value.detach(), 1 - self.decay)

    def in_place(self) -> AbstractContextManager[None]:
        """While in the block, the model has the teacher's adapter."""
        return with_adapter(trainable(self.model), self.adapter)

    def state_dict(self) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in self.adapter.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        devices = {name: value.device for name, value in trainable(self.model).items()}
        self.adapter = {name: value.to(devices[name]) for name, value in state.items()}
