"""Parts of a language model that the learner calls: its decoder, its head and its attention."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor

from envgym.errors import UsageError
from envgym_trainer.batch import Batch
from envgym_trainer.learner import tree_attention


@contextmanager
def attention_of(decoder: Any, batch: Batch) -> Iterator[None]:
    """Select the attention that this batch needs while in the block.

    The backward pass must be in the block too, because it recomputes layers.
    """
    config = decoder.config
    before = decoder.config._attn_implementation
    config._attn_implementation = "sdpa" if batch.subtree_end is None else tree_attention.NAME
    try:
        yield
    finally:
        config._attn_implementation = before


def hidden_states(decoder: Any, batch: Batch, *, block: int) -> Tensor:
    """Return the last hidden states of a batch, shape (B, S, d), with gradients.

    Args:
        decoder: Transformer without its head.
        batch: Batch on the model's device.
        block: Block size of tree attention in tokens.
    """
    options: dict[str, Any] = {}
    if batch.subtree_end is not None:
        options["envgym_blocks"] = tree_attention.attention_blocks(batch.subtree_end, size=block)
    with attention_of(decoder, batch):
        return decoder(
            input_ids=batch.input_ids,
            position_ids=batch.position_ids,
            attention_mask=batch.attention_mask,
            use_cache=False,
            **options,
        ).last_hidden_state


def decoder_and_head(model: PeftModel) -> tuple[torch.nn.Module, Tensor]:
    """Return the transformer without its head, and the head's matrix, shape (V, d).

    Raises:
        UsageError: If the head is more than a frozen matrix.
    """
    language_model: Any = model.get_base_model()
    config = language_model.config
    head = language_model.get_output_embeddings()
    name = type(language_model).__name__
    if (
        head is None
        or getattr(head, "bias", None) is not None
        or any(p.requires_grad for p in head.parameters())
    ):
        raise UsageError(
            f"{name}: the language-model head must be a frozen matrix without bias. Leave lm_head "
            "out of the LoRA targets."
        )
    for option in ("final_logit_softcapping", "logits_scaling", "logit_scale"):
        if getattr(config, option, None) not in (None, 1, 1.0):
            raise UsageError(
                f"{name} changes its logits by config.{option}, which is not supported. Use a "
                "Llama, Qwen or Mistral model."
            )
    return language_model.get_decoder(), head.weight
