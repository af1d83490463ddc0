"""Several processes make one step together: gradients, denominators and numbers are added up over the ranks.

Each rank brings its own share of the samples, even an empty one, and all divide by one denominator of the whole step. So the
sum of their gradients is the gradient that one process would have computed from all samples, and every rank makes the same
update: weights stay equal without ever being sent.

    torch.distributed.init_process_group("gloo")
    learner = Learner(model, ranks=Ranks.joined())
    learner.grpo_step(my_share)                     # every rank calls it, equally often

Left out: `envgym train` over several processes (sampling, files and evaluation are one process's), sharded weights, and a rank
that dies: the others wait for it until the group's timeout.
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
class Ranks:
    """The processes of one step; `Ranks()` is this process alone, for which nothing is sent."""

    group: Any = None
    """A `torch.distributed` process group; None is the default one."""
    size: int = 1
    """How many processes."""

    @classmethod
    def joined(cls, group: Any = None) -> Ranks:
        """The ranks of a process group. Raises UsageError where none was made."""
        if not (dist.is_available() and dist.is_initialized()):
            raise UsageError(
                "there is no process group. Call torch.distributed.init_process_group first, on every rank."
            )
        return cls(group, dist.get_world_size(group))

    def gather(self, value: T) -> list[T]:
        """The small picklable values of all ranks, in their order."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value, group=self.group)
        return found

    def total(self, number: float) -> float:
        """The sum over the ranks, the same to the bit on each."""
        return math.fsum(self.gather(number)) if self.size > 1 else number

    def add_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Puts the sum of all ranks' gradients into each parameter's `grad`; a missing one counts as zeros.

        Args:
            parameters: of any shapes and one dtype and device, in the same order on every rank.
        """
        if self.size == 1:
            return
        parameters = list(parameters)
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flat = torch.cat(
            [part.flatten() for part in parts]
        )  # (all of them,) one message instead of hundreds
        dist.all_reduce(flat, group=self.group)
        for parameter, part in zip(
            parameters, flat.split([part.numel() for part in parts]), strict=True
        ):
            parameter.grad = part.view_as(parameter).clone()

    def require_equal(self, parameters: Mapping[str, Tensor]) -> None:
        """Raises UsageError, on every rank, where the ranks start from different weights: they would never meet again."""
        if self.size == 1:
            return
        mine = {
            name: (tuple(value.shape), value.detach().double().sum().item())
            for name, value in parameters.items()
        }
        others = self.gather(mine)
        if any(other != others[0] for other in others):
            raise UsageError(
                "the ranks start from different adapters, so their updates would differ for ever. Attach it with the same seed "
                "on every rank, or load the same one."
            )


def refuse_launcher(environment: Mapping[str, str] = os.environ) -> None:
    """Raises UsageError under `torchrun` with several processes: each would train, alone, a run of its own."""
    size = environment.get("WORLD_SIZE", "1")
    if "RANK" in environment and size != "1":
        raise UsageError(
            f"WORLD_SIZE is {size}, but `envgym train` is one process: it would be trained {size} times, each alone. Start it "
            "without torchrun. Several processes are a feature of the learner: see envgym_trainer/ranks.py."
        )
