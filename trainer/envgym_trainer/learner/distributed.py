"""Data-parallel training: sum gradients, denominators and metrics over several processes.

Each process has its share of the samples, which may be empty. All divide by one denominator of the
whole step, so the summed gradient equals the gradient of one process with all samples. Every
process makes the same update, so weights are never sent.
Call `torch.distributed.init_process_group`, create `Learner(model, ranks=ProcessGroup.joined())`
and call `update` equally often on every process. Not supported: `envgym train` over several
processes, sharded weights. If a process dies, the others wait until the group's timeout.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from envgym.errors import UsageError

T = TypeVar("T")


@dataclass(frozen=True)
class ProcessGroup:
    """Processes of one training step. `ProcessGroup()` is one process without communication."""

    group: Any = None
    """Process group of `torch.distributed`. None is the default group."""
    size: int = 1
    """Number of processes."""

    @classmethod
    def joined(cls, group: Any = None) -> ProcessGroup:
        """Return the ranks of a process group.

        Raises:
            UsageError: If there is no process group.
        """
        if not (dist.is_available() and dist.is_initialized()):
            raise UsageError(
                "there is no process group. Call torch.distributed.init_process_group first, on "
                "every rank."
            )
        return cls(group, dist.get_world_size(group))

    def gather(self, value: T) -> list[T]:
        """Return the values of all ranks, in rank order. Values must be small and picklable."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value, group=self.group)
        return found

    def total(self, number: float) -> float:
        """Return the sum over all ranks. It is equal on each rank, bit by bit."""
        return math.fsum(self.gather(number)) if self.size > 1 else number

    def add_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replace each parameter's `grad` by the sum over all ranks.

        A missing gradient counts as zero.

        Args:
            parameters: Parameters of one dtype and device, in the same order on every rank.
        """
        if self.size == 1:
            return
        parameters = list(parameters)
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        # One message with all gradients instead of hundreds of messages.
        flat = torch.cat([part.flatten() for part in parts])
        dist.all_reduce(flat, group=self.group)
        for parameter, part in zip(
            parameters, flat.split([part.numel() for part in parts]), strict=True
        ):
            parameter.grad = part.view_as(parameter).clone()

    def require_equal(self, parameters: Mapping[str, Tensor]) -> None:
        """Check that all ranks start from equal weights, since they would stay different otherwise.

        Raises:
            UsageError: If they differ. Raised on every rank.
        """
        if self.size == 1:
            return
        mine = {
            name: (tuple(value.shape), value.detach().double().sum().item())
            for name, value in parameters.items()
        }
        others = self.gather(mine)
        if any(other != others[0] for other in others):
            raise UsageError(
                "the ranks start from different adapters, so their updates would differ. Attach "
                "the adapter with the same seed on every rank, or load the same one."
            )


def refuse_launcher(environment: Mapping[str, str] = os.environ) -> None:
    """Check that `envgym train` was not started by `torchrun` with several processes.

    Raises:
        UsageError: If it was. Each process would train a separate run.
    """
    size = environment.get("WORLD_SIZE", "1")
    if "RANK" in environment and size != "1":
        raise UsageError(
            f"WORLD_SIZE is {size}, but `envgym train` is one process: it would train {size} "
            "separate runs. Start it without torchrun. Several processes are a feature of the "
            "learner: see envgym_trainer/learner/distributed.py."
        )
