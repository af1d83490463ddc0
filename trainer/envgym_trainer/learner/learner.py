"""Learner of the LoRA weights: one optimizer step from samples to metrics.

The step runs the transformer over a prefix tree (or, as the reference, over padded rows), computes
logprobs only for sampled tokens, and divides by a denominator of the whole step, so the split into
micro-batches does not change the gradient. Old logprobs come from sampling. The reference policy is
the same model with its adapter off. See `ranks.py` for several processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

import torch
from peft import PeftModel
from torch import Tensor

from envgym.errors import UsageError
from envgym_trainer.algorithms.aggregation import weigh_samples
from envgym_trainer.algorithms.entropy import entropy_bonus
from envgym_trainer.algorithms.kl import k3_kl
from envgym_trainer.algorithms.losses import LossOutput
from envgym_trainer.algorithms.losses.sft import sft_loss
from envgym_trainer.algorithms.objective import needs_scoring, policy_loss
from envgym_trainer.batch import Batch, Sample, flat_batch
from envgym_trainer.config.algorithm import AlgorithmConfig
from envgym_trainer.learner import tree_attention
from envgym_trainer.learner.activation_checkpointing import activation_checkpointing
from envgym_trainer.learner.distributed import ProcessGroup
from envgym_trainer.learner.logprobs import action_logprobs
from envgym_trainer.learner.off_policy import Check, with_drift
from envgym_trainer.learner.prefix_tree import split_samples, tree_batch
from envgym_trainer.learner.rescore import with_scores
from envgym_trainer.model.lora import trainable, training_mode

Layout = Literal["tree", "flat"]


class Learner:
    """Optimizer of a PEFT model's adapter. Each `..._step` method makes one update.

    Args:
        model: Decoder-only language model with one LoRA adapter. Only trainable parameters are
            updated.
        learning_rate: Learning rate of AdamW, constant after `warmup_steps` updates of linear
            warm-up.
        max_grad_norm: Maximum norm of the gradient; a larger one is clipped.
        temperature: Temperature at which the samples were drawn. SFT uses it too.
        clip_low: See `losses/grpo.py`.
        clip_high: See `losses/grpo.py`.
        kl_coef: See `losses/grpo.py`. If it is 0, no reference logprobs are computed.
        max_tokens_per_micro_batch: Tokens of one forward and backward pass, about 1 MB each for a
            135M model.
        layout: "tree" shares prefixes. "flat" is the padded reference with the same gradients.
        weight_decay: Weight decay of AdamW on the adapter.
        warmup_steps: Updates of linear warm-up.
        algorithm: Loss, aggregation, KL and off-policy correction. Advantages come with the
            samples.
        constant_length: Length for aggregation "constant" if the algorithm does not set one.
        ranks: Processes that make each step together, each with its own samples. By default only
            this one.
        entropy_coef: Weight of the entropy bonus (`losses/entropy.py`). If it is 0, no gradient of
            the entropy is computed.

    Raises:
        UsageError: If the model's head is not supported, or nothing is trainable.
    """

    def __init__(
        self,
        model: PeftModel,
        *,
        learning_rate: float = 3e-4,
        max_grad_norm: float = 1.0,
        temperature: float = 1.0,
        clip_low: float = 0.2,
        clip_high: float = 0.2,
        kl_coef: float = 0.0,
        max_tokens_per_micro_batch: int = 4096,
        layout: Layout = "tree",
        weight_decay: float = 0.0,
        warmup_steps: int = 0,
        algorithm: AlgorithmConfig = AlgorithmConfig(),  # noqa: B008 - frozen
        constant_length: int = 1,
        ranks: ProcessGroup | None = None,
        entropy_coef: float = 0.0,
    ):
        self.model, self.layout, self.ranks = model, layout, ranks or ProcessGroup()
        self.decoder, self.head_weight = _body_and_head(model)
        self.parameters = trainable(model)
        if not self.parameters:
            raise UsageError(
                "the model has no trainable parameters. Attach a LoRA adapter, or load one with "
                "is_trainable=True."
            )
        self.ranks.require_equal(self.parameters)
        self.learning_rate = learning_rate
        self.warmup_steps = warmup_steps
        self.max_grad_norm = max_grad_norm
        self.temperature = temperature
        self.kl_coef = kl_coef
        self.max_tokens = max_tokens_per_micro_batch
        self.clip_low = clip_low
        self.clip_high = clip_high
        self.algorithm = algorithm
        self.constant_length = algorithm.aggregation.length_tokens or constant_length
        self.entropy_coef = entropy_coef
        self.max_kl: float | None = None
        """Maximum `approx_kl` of samples of an update, in nats per token; see `controllers.py`."""
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(), lr=learning_rate, weight_decay=weight_decay
        )
        # Measured on 2 cores with 1,000-2,000 tokens: 128 is best, 64 and 256 are 5 % slower. A
        # GPU is faster with few large calls.
        self.attention_block = 128 if self.head_weight.device.type == "cpu" else 1024
        self.updates = 0
        """Number of optimizer steps."""
        self.skipped_steps = 0
        """Number of steps skipped because the loss or the gradient was not finite."""

    def grpo_step(
        self, samples: Sequence[Sample], *, check: Check | None = None
    ) -> dict[str, float]:
        """Make one policy-gradient update.

        The denominator covers all samples, with those without an advantage (`aggregation.py`). When
        kl_coef and entropy_coef are 0, these have no gradient and are dropped before the forward
        pass.

        Args:
            samples: Samples of this process. The denominator covers all processes.
            check: Called with the metrics before an update. An exception prevents the update.

        Returns:
            Metrics. When there is no sample to train on, no update is made and most metrics are
            absent.
        """
        samples, share = weigh_samples(
            self.scored(samples),
            self.algorithm.aggregation.kind,
            constant_length=self.constant_length,
        )
        denominator = self.ranks.total(share) or 1.0
        kept = [
            sample
            for sample in samples
            if sample.has_advantage or self.kl_coef > 0 or self.entropy_coef > 0
        ]

        def loss(batch: Batch, logprobs: Tensor) -> LossOutput:
            output = policy_loss(
                self.algorithm,
                batch,
                logprobs,
                denominator=denominator,
                clip_low=self.clip_low,
                clip_high=self.clip_high,
                kl_coef=self.kl_coef,
                ref_logprobs=self._reference_logprobs(batch) if self.kl_coef > 0 else None,
            )
            return with_drift(output, logprobs, batch.old_logprobs)

        metrics = self._step(kept, loss, denominator, check=check, entropy_coef=self.entropy_coef)
        dropped = 1 - self.ranks.total(len(kept)) / max(self.ranks.total(len(samples)), 1)
        return metrics | {"frac_samples_dropped": dropped}

    def scored(self, samples: Sequence[Sample]) -> Sequence[Sample]:
        """Return the samples with the trainer's logprobs, if an off-policy correction needs them.

        Call it before the first update of a step that makes several updates.
        """
        return with_scores(self, samples) if needs_scoring(self.algorithm) else samples

    def sft_step(self, samples: Sequence[Sample]) -> dict[str, float]:
        """Make one supervised update: the weighted mean negative log likelihood of the samples."""
        denominator = self.ranks.total(_total_weight(samples)) or 1.0
        return self._step(
            samples,
            lambda batch, logprobs: sft_loss(
                logprobs, denominator=denominator, weights=batch.weights
            ),
            denominator,
        )

    @torch.no_grad()
    def step_kl(self, samples: Sequence[Sample]) -> float:
        """Return the mean k3 estimate of KL(sampling policy || current policy), in nats per token.

        The result is NaN without sampled tokens.
        """
        samples = [sample for sample in samples if sample.num_actions]
        total = 0.0
        count = 0
        for batch in self.micro_batches(samples) if samples else ():
            batch = batch.to(self.head_weight.device)
            total += (
                k3_kl(batch.old_logprobs, self.score(batch)[0][batch.action_nodes]).sum().item()
            )
            count += len(batch.action_nodes)
        return total / count if count else float("nan")

    def micro_batches(self, samples: Sequence[Sample]) -> Iterator[Batch]:
        """Yield the step's forward passes, within the token budget if each sample fits it."""
        if self.layout == "tree":
            for piece in split_samples(samples, max_tokens=self.max_tokens):
                yield tree_batch([samples[index] for index in piece])
            return
        rows = sorted(samples, key=lambda sample: sample.input_length)
        while rows:
            count = max(
                1,
                max(
                    (
                        n
                        for n in range(1, len(rows) + 1)
                        if n * rows[n - 1].input_length <= self.max_tokens
                    ),
                    default=1,
                ),
            )
            yield flat_batch(rows[:count])
            rows = rows[count:]

    def score(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return current logprobs and entropy of the batch's nodes, shape (N,) each.

        Gradients flow to the adapter.
        """
        with _attention(self.decoder, batch):
            hidden = self.decoder(
                input_ids=batch.input_ids,
                position_ids=batch.position_ids,
                attention_mask=batch.attention_mask,
                use_cache=False,
                **self._blocks(batch),
            ).last_hidden_state  # (B, S, d)
        predictors = hidden[batch.score_rows, batch.score_positions]  # (N, d)
        return action_logprobs(
            predictors,
            self.head_weight,
            batch.score_ids,
            temperature=self.temperature,
            entropy_gradient=self.entropy_coef > 0,
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the state for an exact resume: adapter, optimizer, counters, random state."""
        return {
            "adapter": {name: value.detach().clone() for name, value in self.parameters.items()},
            "optimizer": self.optimizer.state_dict(),
            "updates": self.updates,
            "skipped_steps": self.skipped_steps,
            "torch_rng": torch.get_rng_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state. Raises UsageError if it belongs to another adapter."""
        if state["adapter"].keys() != self.parameters.keys():
            odd = sorted(state["adapter"].keys() ^ self.parameters.keys())
            raise UsageError(
                f"the checkpoint holds another adapter ({odd[0]} and {len(odd) - 1} more differ). "
                "Resume with the same LoRA settings."
            )
        with torch.no_grad():
            for name, value in self.parameters.items():
                value.copy_(state["adapter"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.updates, self.skipped_steps = state["updates"], state["skipped_steps"]
        torch.set_rng_state(state["torch_rng"])

    def _step(
        self,
        samples: Sequence[Sample],
        loss: Callable[[Batch, Tensor], LossOutput],
        denominator: float,
        *,
        check: Check | None = None,
        entropy_coef: float = 0.0,
    ) -> dict[str, float]:
        """Run forward and backward over all micro-batches, then make one update."""
        samples = [sample for sample in samples if sample.num_actions and sample.weight != 0]
        tally = _Tally()
        # An interrupted step may have left a partial gradient.
        self.optimizer.zero_grad(set_to_none=True)
        # Only LoRA's dropout, 0 by default, may differ from sampling.
        training_mode(self.model)
        for batch in self.micro_batches(samples) if samples else ():
            batch = batch.to(self.head_weight.device)
            with activation_checkpointing(self.model), _attention(self.decoder, batch):
                logprobs, entropy = self.score(batch)
                output = loss(batch, logprobs[batch.action_nodes])
                if entropy_coef > 0:
                    at = entropy[batch.action_nodes]
                    bonus = entropy_bonus(
                        at, coef=entropy_coef, denominator=denominator, weights=batch.weights
                    )
                    output = replace(output, loss=output.loss + bonus)
                output.loss.backward()
            tally.add(batch, output, entropy)
        tally = _Tally.merged(self.ranks.gather(tally))
        metrics = tally.metrics(denominator) | (
            {"entropy_coef": entropy_coef} if entropy_coef > 0 else {}
        )
        if tally.entries:
            self.ranks.add_gradients(self.parameters.values())
            if check:
                check(metrics)
        stopped = self.max_kl is not None and metrics.get("approx_kl", 0.0) > self.max_kl
        metrics |= {} if self.max_kl is None else {"controller/stopped": float(stopped)}
        return metrics | self._update(tally.entries > 0 and not stopped, tally.loss)

    def _update(self, has_gradient: bool, loss: float) -> dict[str, float]:
        """Clip and apply the gradient. If it is not finite, weights and optimizer are unchanged."""
        rate = self.learning_rate * min(1.0, (self.updates + 1) / max(self.warmup_steps, 1))
        norm = 0.0
        if has_gradient:
            norm = torch.nn.utils.clip_grad_norm_(
                self.parameters.values(), self.max_grad_norm
            ).item()
            if norm - norm == 0 and loss - loss == 0:  # finite
                for group in self.optimizer.param_groups:
                    group["lr"] = rate
                self.optimizer.step()
                self.updates += 1
            else:
                self.skipped_steps += 1
        self.optimizer.zero_grad(set_to_none=True)
        return {
            "grad_norm": norm,
            "learning_rate": rate,
            "skipped_steps": float(self.skipped_steps),
        }

    def _blocks(self, batch: Batch) -> dict[str, Any]:
        """Return the additional arguments of tree attention."""
        if batch.subtree_end is None:
            return {}
        return {
            "envgym_blocks": tree_attention.attention_blocks(
                batch.subtree_end, size=self.attention_block
            )
        }

    @torch.no_grad()
    def _reference_logprobs(self, batch: Batch) -> Tensor:
        """Return logprobs of the batch's entries with the adapter off, shape (E,)."""
        with self.model.disable_adapter():
            return self.score(batch)[0][batch.action_nodes]


class _Tally:
    """Sums over the micro-batches of a step."""

    def __init__(self) -> None:
        self.loss = 0.0
        self.sums: dict[str, float] = {}
        self.maxima: dict[str, float] = {}
        self.entries = self.nodes = self.tokens = self.flat_tokens = 0

    @classmethod
    def merged(cls, parts: Sequence[_Tally]) -> _Tally:
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
        return {
            "loss": self.loss,
            **means,
            **self.maxima,
            "batch/action_tokens": float(self.entries),
            "batch/scored_tokens": float(self.nodes),
            "batch/forward_tokens": float(self.tokens),
            "batch/compression": self.flat_tokens / self.tokens if self.tokens else 1.0,
        }


def _total_weight(samples: Sequence[Sample]) -> float:
    return sum(sample.num_actions * sample.weight for sample in samples)


@contextmanager
def _attention(decoder: Any, batch: Batch) -> Iterator[None]:
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


def _body_and_head(model: PeftModel) -> tuple[torch.nn.Module, Tensor]:
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
