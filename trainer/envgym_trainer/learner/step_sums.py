"""Sums over the micro-batches and the processes of one update, and its metrics."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from envgym_trainer.algorithms.losses import LossOutput
from envgym_trainer.batch import Batch


class StepSums:
    """Sums over the micro-batches of a step."""

    def __init__(self) -> None:
        self.loss = 0.0
        self.sums: dict[str, float] = {}
        self.maxima: dict[str, float] = {}
        self.entries = self.nodes = self.tokens = self.flat_tokens = 0

    @classmethod
    def merged(cls, parts: Sequence[StepSums]) -> StepSums:
        """Merge the sums of several processes."""
        whole = cls()
        for part in parts:
            for name in ("loss", "entries", "nodes", "tokens", "flat_tokens"):
                setattr(whole, name, getattr(whole, name) + getattr(part, name))
            whole.sums = {
                name: whole.sums.get(name, 0.0) + part.sums.get(name, 0.0)
                for name in whole.sums | part.sums
            }
            whole.maxima = {
                n: max(t.maxima[n] for t in (whole, part) if n in t.maxima)
                for n in whole.maxima | part.maxima
            }
        return whole

    def add(self, batch: Batch, output: LossOutput, entropy: Tensor) -> None:
        self.loss += output.loss.item()
        for name, value in (output.sums | {"entropy": entropy[batch.action_nodes].sum()}).items():
            self.sums[name] = self.sums.get(name, 0.0) + value.item()
        for name, value in output.maxima.items():
            self.maxima[name] = max(self.maxima.get(name, -float("inf")), value.item())
        self.entries += len(batch.action_nodes)
        self.nodes += len(batch.score_ids)
        self.tokens += batch.num_tokens
        self.flat_tokens += batch.num_flat_tokens

    def metrics(self, denominator: float) -> dict[str, float]:
        """Return means over trained tokens, and `policy_loss` divided by the loss's denominator."""
        means = {
            name: value / (denominator if name == "policy_loss" else self.entries)
            for name, value in self.sums.items()
        }
        if "kl/current_base" in means:
            # TRL's name of the same quantity.
            means["kl"] = means["kl/current_base"]
        return {
            "loss": self.loss,
            **means,
            **self.maxima,
            "batch/action_tokens": float(self.entries),
            "batch/scored_tokens": float(self.nodes),
            "batch/forward_tokens": float(self.tokens),
            "batch/compression": self.flat_tokens / self.tokens if self.tokens else 1.0,
        }
