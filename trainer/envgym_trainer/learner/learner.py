"""One optimiser step on the LoRA weights: samples in, metrics out.

The step runs the transformer's body over a prefix tree (or, as the reference, over padded rows), scores the sampled tokens
only, and divides by a denominator of the whole step, so no way of cutting it into micro-batches changes the gradient. The
old logprobs are those of sampling; the reference policy is the same model with its adapter off.

Left out: sampling (`engine.py`), advantages (`advantages.py`), files (`checkpoint.py`); several processes are in `ranks.py`.
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
from envgym_trainer.algorithms.aggregation import aggregated
from envgym_trainer.algorithms.entropy import entropy_bonus
from envgym_trainer.algorithms.kl import k3_kl
from envgym_trainer.algorithms.losses import LossOutput
from envgym_trainer.algorithms.losses.sft import sft_loss
from envgym_trainer.algorithms.objective import needs_scoring, policy_loss
from envgym_trainer.batch import Batch, Sample, flat_batch
from envgym_trainer.config.algorithm import AlgorithmConfig
from envgym_trainer.learner import tree_attention
from envgym_trainer.learner.activation_checkpointing import lean
from envgym_trainer.learner.distributed import Ranks
from envgym_trainer.learner.logprobs import action_logprobs
from envgym_trainer.learner.off_policy import Check, with_drift
from envgym_trainer.learner.prefix_tree import split_samples, tree_batch
from envgym_trainer.learner.rescore import with_scores
from envgym_trainer.model.lora import trainable, training_mode

Layout = Literal["tree", "flat"]


class Learner:
    """Holds the optimiser of a PEFT model's adapter; each `..._step` is one update.

    Args:
        model: a decoder-only language model with one LoRA adapter; only its trainable parameters are updated.
        learning_rate: of AdamW, after `warmup_steps` updates of linear warm-up; constant from there.
        max_grad_norm: the gradient's norm is clipped to this.
        temperature: the one the samples were drawn at; SFT uses it too.
        clip_low, clip_high, kl_coef: see `losses/grpo.py`. With kl_coef = 0 no reference forward is made.
        max_tokens_per_micro_batch: budget of one forward and backward pass; about 1 MB a token for a 135M model.
        layout: "tree" shares prefixes, "flat" is the padded reference with the same gradients.
        weight_decay: of AdamW, on the adapter.
        algorithm: which loss, how tokens add up, which KL and correction; advantages come with the samples.
        constant_length: of aggregation "constant" where the algorithm names none.
        ranks: the processes that make each step together, every one with its own samples; by default this one alone.
        entropy_coef: weight of the entropy bonus (`losses/entropy.py`) in GRPO's loss; 0 forms no gradient of it.
    Raises: UsageError for a model whose head cannot be scored, or that has nothing to train.
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
        ranks: Ranks | None = None,
        entropy_coef: float = 0.0,
    ):
        self.model, self.layout, self.ranks = model, layout, ranks or Ranks()
        self.decoder, self.head_weight = _body_and_head(model)
        self.parameters = trainable(model)
        if not self.parameters:
            raise UsageError(
                "the model has no trainable parameters. Attach a LoRA adapter, or load one with is_trainable=True."
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
        self.constant_length = algorithm.constant_length or constant_length
        self.entropy_coef = entropy_coef
        self.max_kl: float | None = None
        """No update from samples whose `approx_kl` is above this, in nats a token; see `controllers.py`."""
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(), lr=learning_rate, weight_decay=weight_decay
        )
        # Measured on 2 cores with 1,000-2,000 tokens: 128 is best, 64 and 256 are 5 % behind. A GPU wants few big calls.
        self.attention_block = 128 if self.head_weight.device.type == "cpu" else 1024
        self.updates = 0
        """Optimiser steps made so far."""
        self.skipped_steps = 0
        """Steps left out because the loss or the gradient was not finite."""

    def grpo_step(
        self, samples: Sequence[Sample], *, check: Check | None = None
    ) -> dict[str, float]:
        """One policy-gradient update.

        The denominator belongs to *all* samples given (`aggregation.py`), those without an advantage included, although these
        pull no gradient and are dropped before the forward pass (unless kl_coef > 0): dropping changes nothing.
        Args:
            samples: of this rank; the denominator is that of all ranks.
            check: called with the metrics before the update, where there is one; what it raises forbids the update.
        Returns: metrics; with nothing to learn from, no update is made and most are absent.
        """
        samples, share = aggregated(
            self.scored(samples), self.algorithm.aggregation, constant_length=self.constant_length
        )
        denominator = self.ranks.total(share) or 1.0
        kept = [
            sample
            for sample in samples
            if sample.has_lesson or self.kl_coef > 0 or self.entropy_coef > 0
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
        """The samples with the trainer's own logprobs where a correction asks for them and they are not there yet.

        To be called before a step's first update, when several are made of its samples.
        """
        return with_scores(self, samples) if needs_scoring(self.algorithm) else samples

    def sft_step(self, samples: Sequence[Sample]) -> dict[str, float]:
        """One update towards the samples' own tokens: the weighted mean of their negative log likelihood."""
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
        """How far the policy is from the one that sampled, in nats a token: the mean k3 estimate; NaN without samples."""
        samples = [sample for sample in samples if sample.num_actions]
        total = 0.0
        count = 0
        for batch in self.micro_batches(samples) if samples else ():
            batch = batch.to(self.head_weight.device)
            total += k3_kl(batch.old_logprobs, self.score(batch)[0][batch.entry_nodes]).sum().item()
            count += len(batch.entry_nodes)
        return total / count if count else float("nan")

    def micro_batches(self, samples: Sequence[Sample]) -> Iterator[Batch]:
        """The step's forward passes, each within the token budget where a single sample is."""
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
        """Current logprobs and entropy of the batch's nodes, (N,) each; gradients flow to the adapter."""
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
        """All that an exact resume needs: adapter, optimiser, counters, torch's random state."""
        return {
            "adapter": {name: value.detach().clone() for name, value in self.parameters.items()},
            "optimizer": self.optimizer.state_dict(),
            "updates": self.updates,
            "skipped_steps": self.skipped_steps,
            "torch_rng": torch.get_rng_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues where `state_dict` was taken. Raises UsageError where the adapter is another one."""
        if state["adapter"].keys() != self.parameters.keys():
            odd = sorted(state["adapter"].keys() ^ self.parameters.keys())
            raise UsageError(
                f"the checkpoint holds another adapter ({odd[0]} and {len(odd) - 1} more). Resume with the same LoRA settings."
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
        """Forward and backward over all micro-batches, then one update."""
        samples = [sample for sample in samples if sample.num_actions and sample.weight != 0]
        tally = _Tally()
        self.optimizer.zero_grad(
            set_to_none=True
        )  # an interrupted step may have left a part of its gradient
        training_mode(
            self.model
        )  # nothing but LoRA's own dropout, 0 unless asked for, may differ from sampling
        for batch in self.micro_batches(samples) if samples else ():
            batch = batch.to(self.head_weight.device)
            with lean(self.model), _attention(self.decoder, batch):
                logprobs, entropy = self.score(batch)
                output = loss(batch, logprobs[batch.entry_nodes])
                if entropy_coef > 0:
                    at = entropy[batch.entry_nodes]
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
        """Clips and applies the gradient; leaves weights and optimiser alone where there is none or it is not finite."""
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
        """What the tree's attention needs besides the model's own arguments."""
        if batch.subtree_end is None:
            return {}
        return {
            "envgym_blocks": tree_attention.attention_blocks(
                batch.subtree_end, size=self.attention_block
            )
        }

    @torch.no_grad()
    def _reference_logprobs(self, batch: Batch) -> Tensor:
        """(E,) logprobs of the batch's entries with the adapter off."""
        with self.model.disable_adapter():
            return self.score(batch)[0][batch.entry_nodes]


class _Tally:
    """Adds up a step's micro-batches."""

    def __init__(self) -> None:
        self.loss = 0.0
        self.sums: dict[str, float] = {}
        self.maxima: dict[str, float] = {}
        self.entries = self.nodes = self.tokens = self.flat_tokens = 0

    @classmethod
    def merged(cls, parts: Sequence[_Tally]) -> _Tally:
        """What several ranks counted, as one."""
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
        for name, value in (output.sums | {"entropy": entropy[batch.entry_nodes].sum()}).items():
            self.sums[name] = self.sums.get(name, 0.0) + value.item()
        for name, value in output.maxima.items():
            self.maxima[name] = max(self.maxima.get(name, -float("inf")), value.item())
        self.entries += len(batch.entry_nodes)
        self.nodes += len(batch.score_ids)
        self.tokens += batch.num_tokens
        self.flat_tokens += batch.num_flat_tokens

    def metrics(self, denominator: float) -> dict[str, float]:
        """Means over the trained tokens, `policy_loss` over the loss's own denominator."""
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
    """The decoder with the attention that this batch needs, for a forward pass, and a backward pass that computes parts again."""
    config = decoder.config
    before = decoder.config._attn_implementation
    config._attn_implementation = "sdpa" if batch.subtree_end is None else tree_attention.NAME
    try:
        yield
    finally:
        config._attn_implementation = before


def _body_and_head(model: PeftModel) -> tuple[torch.nn.Module, Tensor]:
    """The transformer without its head, and the head's matrix (V, d). Raises UsageError for a head that is more than a matrix."""
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
            f"{name}: the language-model head must be a frozen matrix without bias. Leave lm_head out of the LoRA targets."
        )
    for option in ("final_logit_softcapping", "logits_scaling", "logit_scale"):
        if getattr(config, option, None) not in (None, 1, 1.0):
            raise UsageError(
                f"{name} changes its logits by config.{option}, which is not computed here. Choose a Llama, Qwen or Mistral."
            )
    return language_model.get_decoder(), head.weight
