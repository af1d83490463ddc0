"""Proof that a server samples from the trained model with the adapter in force.

The server's log-probabilities of a few prompt tokens are compared with those of the trained model.
Those of the base are compared once, which tells a wrong model and gives the server's rounding. Each
version of the adapter must match within a bound, and must be nearer to the adapted model than to
the base if the adapter's effect is larger than rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from envgym.messages import Message
from envgym_trainer.inference.vllm.errors import AdapterNotActing, WrongModel
from envgym_trainer.model.chat import Chat

TOKENS = 24
"""Number of prompt tokens that are compared."""
EXACT_BOUND = 1e-3
"""Maximum difference of a log-probability in nats if server and trainer compute in float32."""
ROUNDED_BOUND = 1.0
"""Maximum difference in nats if one of them computes in half precision."""
VISIBLE = 4.0
"""An adapter whose effect is this many times the server's rounding can be told from the base."""
Score = Callable[[list[int]], list[float]]
"""Function that returns the server's log-probability of each id after the first."""


class AdapterProof:
    """Comparison of a server with the trained model. Not thread-safe.

    Args:
        model: Trained model (PEFT). It is only read.
        chat: Converter of the model, for the text of the prompt.
    """

    def __init__(self, model: Any, chat: Chat):
        self._model = model
        text = "Which tool do you call first, and with which arguments?"
        self.ids = chat.open([Message("user", text)])[-TOKENS:]
        self._base = self._score(with_adapter=False)
        self._noise = float("nan")
        """Mean difference of the bases in nats."""
        self.bound = ROUNDED_BOUND
        """Maximum difference of a log-probability in nats. It is known after `check_base`."""

    def check_base(self, served: Sequence[float], name: str) -> None:
        """Check the base model of the server.

        Args:
            served: The server's log-probability of each of `ids` after the first.
            name: Name of the model on the server.

        Raises:
            WrongModel: If it is another model than the trained one.
        """
        gap = (torch.tensor(served) - self._base).abs()
        if not gap.max() <= ROUNDED_BOUND:
            raise WrongModel(
                f"the server's model '{name}' is not the trained one: the log-probability of a "
                f"prompt token differs by {gap.max():.2g} nats, and rounding explains at most "
                f"{ROUNDED_BOUND:g}. Serve the model of train.model, or set "
                "train.engine.vllm.model to its name on the server."
            )
        is_exact = self._model.dtype == torch.float32 and gap.max() <= EXACT_BOUND
        self.bound = EXACT_BOUND if is_exact else ROUNDED_BOUND
        self._noise = float(gap.mean())

    def check_adapter(self, served: Sequence[float], name: str) -> None:
        """Check the adapter that the trained model has now.

        Args:
            served: The server's log-probability of each of `ids` after the first, with the adapter.
            name: Name of the adapter on the server.

        Raises:
            AdapterNotActing: If the served adapter is another one, or has no effect.
        """
        ours = self._score(with_adapter=True)
        gap = (torch.tensor(served) - ours).abs()
        effect = float((ours - self._base).abs().mean())
        found = (
            f"the adapter '{name}' on the server does not act as the trained one: the "
            f"log-probability of a prompt token differs by {gap.max():.2g} nats"
        )
        if not gap.max() <= self.bound:
            raise AdapterNotActing(
                f"{found}, and the bound is {self.bound:g}. No step was sampled with it. Check "
                "that the server reads the folder of train.engine.vllm.adapter_folder and applies "
                "LoRA to all trained layers."
            )
        if effect > VISIBLE * self._noise and not gap.mean() < effect / 2:
            raise AdapterNotActing(
                f"{found}, {gap.mean():.2g} on average, but the adapter's whole effect is "
                f"{effect:.2g}: the server ignores it. No step was sampled with it. Start the "
                "server with --enable-lora."
            )

    @torch.no_grad()
    def _score(self, *, with_adapter: bool) -> Tensor:
        """Return the trained model's log-probability of each id after the first."""
        model = self._model
        has_adapter = hasattr(model, "disable_adapter")
        was_training = model.training
        device = model.get_input_embeddings().weight.device
        ids = torch.tensor([self.ids], device=device)
        try:
            model.eval()
            with nullcontext() if with_adapter or not has_adapter else model.disable_adapter():
                logits = model(input_ids=ids, use_cache=False).logits[0, :-1].float()  # (T - 1, V)
        finally:
            model.train(was_training)
        return logits.log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0].cpu()
