"""Learner of the LoRA weights: one optimizer step from samples to metrics.

The step runs the transformer over a prefix tree (or, as the reference, over padded rows), computes
logprobs only for sampled tokens, and divides by a denominator of the whole step, so the split into
micro-batches does not change the gradient. Old logprobs come from sampling. The reference policy is
the same model with its adapter off. See `distributed.py` for several processes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

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
from envgym_trainer.batch import Batch, Sample
from envgym_trainer.config.algorithm import AlgorithmConfig
from envgym_trainer.learner.activation_checkpointing import activation_checkpointing
from envgym_trainer.learner.decoder import attention_of, decoder_and_head, hidden_states
from envgym_trainer.learner.distributed import ProcessGroup
from envgym_trainer.learner.logprobs import action_logprobs
from envgym_trainer.learner.micro_batches import Layout, micro_batches
from envgym_trainer.learner.off_policy import Check, with_drift
from envgym_trainer.learner.rescore import add_trainer_logprobs
from envgym_trainer.learner.step_sums import StepSums
from envgym_trainer.learner.update_settings import UpdateSettings
from envgym_trainer.model.lora import trainable, training_mode

Metrics = dict[str, float]
Loss = Callable[[Batch, Tensor, Tensor], LossOutput]
"""Loss of a batch from logprobs and entropy of its entries, shape (E,) each."""


class Learner:
    """Optimizer of a PEFT model's adapter. It holds no setting that changes during a run.

    Args:
        model: Decoder-only language model with one LoRA adapter. Only trainable parameters are
            updated.
        max_grad_norm: Maximum norm of the gradient; a larger one is clipped.
        max_tokens_per_micro_batch: Tokens of one forward and backward pass, about 1 MB each for a
            135M model.
        layout: "tree" shares prefixes. "flat" is the padded reference with the same gradients.
        weight_decay: Weight decay of AdamW on the adapter.
        warmup_steps: Updates of linear warm-up of the learning rate.
        algorithm: Loss, aggregation, KL and off-policy correction. Advantages come with the
            samples.
        constant_length: Length for aggregation "constant" if the algorithm does not set one.
        ranks: Processes that make each step together, each with its own samples. By default only
            this one.

    Raises:
        UsageError: If the model's head is not supported, or nothing is trainable.
    """

    def __init__(
        self,
        model: PeftModel,
        *,
        max_grad_norm: float = 1.0,
        max_tokens_per_micro_batch: int = 4096,
        layout: Layout = "tree",
        weight_decay: float = 0.0,
        warmup_steps: int = 0,
        algorithm: AlgorithmConfig = AlgorithmConfig(),  # noqa: B008 - frozen
        constant_length: int = 1,
        ranks: ProcessGroup | None = None,
    ):
        self.model = model
        self.layout: Layout = layout
        self.ranks = ranks or ProcessGroup()
        self.decoder, self.head_weight = decoder_and_head(model)
        self.parameters = trainable(model)
        if not self.parameters:
            raise UsageError(
                "the model has no trainable parameters. Attach a LoRA adapter, or load one with "
                "is_trainable=True."
            )
        self.ranks.require_equal(self.parameters)
        self.warmup_steps = warmup_steps
        self.max_grad_norm = max_grad_norm
        self.max_tokens = max_tokens_per_micro_batch
        self.algorithm = algorithm
        self.constant_length = algorithm.aggregation.length_tokens or constant_length
        # The learning rate is set before each update.
        self.optimizer = torch.optim.AdamW(self.parameters.values(), weight_decay=weight_decay)
        # Measured on 2 cores with 1,000-2,000 tokens: 128 is best, 64 and 256 are 5 % slower. A
        # GPU is faster with few large calls.
        self.attention_block = 128 if self.head_weight.device.type == "cpu" else 1024
        self.updates = 0
        """Number of optimizer steps."""
        self.skipped_updates = 0
        """Number of updates skipped because the loss or the gradient was not finite."""

    def update(
        self, samples: Sequence[Sample], settings: UpdateSettings, *, check: Check | None = None
    ) -> Metrics:
        """Make one policy-gradient update.

        The denominator covers all samples, with those without an advantage (`aggregation.py`). When
        kl_coef and entropy_coef are 0, these have no gradient and are dropped before the forward
        pass.

        Args:
            samples: Samples of this process. The denominator covers all processes.
            settings: Learning rate, coefficients, clip range and temperature of this update.
            check: Called with the metrics before an update. An exception prevents the update.

        Returns:
            Metrics. When there is no sample to train on, no update is made and most metrics are
            absent.
        """
        samples, share = weigh_samples(
            self.with_trainer_logprobs(samples, settings),
            self.algorithm.aggregation.kind,
            constant_length=self.constant_length,
        )
        denominator = self.ranks.total(share) or 1.0
        kept = [
            sample
            for sample in samples
            if sample.has_advantage or settings.kl_coef > 0 or settings.entropy_coef > 0
        ]

        def loss(batch: Batch, logprobs: Tensor, entropy: Tensor) -> LossOutput:
            output = policy_loss(
                self.algorithm,
                batch,
                logprobs,
                denominator=denominator,
                clip_low=settings.clip_low,
                clip_high=settings.clip_high,
                kl_coef=settings.kl_coef,
                ref_logprobs=self._ref_logprobs(batch, settings) if settings.kl_coef > 0 else None,
            )
            if settings.entropy_coef > 0:
                bonus = entropy_bonus(
                    entropy,
                    coef=settings.entropy_coef,
                    denominator=denominator,
                    weights=batch.weights,
                )
                output = replace(output, loss=output.loss + bonus)
            return with_drift(output, logprobs, batch.old_logprobs)

        sums = self._backward(kept, loss, settings)
        metrics = sums.metrics(denominator)
        if settings.entropy_coef > 0:
            metrics["entropy_coef"] = settings.entropy_coef
        if sums.entries and check:
            check(metrics)
        stopped = False
        if settings.max_kl is not None:
            stopped = metrics.get("kl/old_current", 0.0) > settings.max_kl
            metrics["controller/update_skipped"] = float(stopped)
        metrics |= self._apply(sums, settings.learning_rate, skip=stopped)
        dropped = 1 - self.ranks.total(len(kept)) / max(self.ranks.total(len(samples)), 1)
        return metrics | {"batch/frac_without_gradient": dropped}

    def supervised_update(self, samples: Sequence[Sample], settings: UpdateSettings) -> Metrics:
        """Make one update on the weighted mean negative log likelihood of the samples.

        Only the learning rate and the temperature of the settings are used.
        """
        denominator = self.ranks.total(_total_weight(samples)) or 1.0

        def loss(batch: Batch, logprobs: Tensor, entropy: Tensor) -> LossOutput:
            return sft_loss(logprobs, denominator=denominator, weights=batch.weights)

        plain = replace(settings, kl_coef=0.0, entropy_coef=0.0, max_kl=None)
        sums = self._backward(samples, loss, plain)
        return sums.metrics(denominator) | self._apply(sums, settings.learning_rate)

    def with_trainer_logprobs(
        self, samples: Sequence[Sample], settings: UpdateSettings
    ) -> Sequence[Sample]:
        """Return the samples with the trainer's logprobs, if an off-policy correction needs them.

        Call it before the first update of a step that makes several updates.
        """
        if not needs_scoring(self.algorithm):
            return samples
        # LoRA dropout would count as mismatch.
        self.model.eval()
        return add_trainer_logprobs(
            samples,
            partial(self._action_logprobs, settings=settings),
            layout=self.layout,
            max_tokens=self.max_tokens,
        )

    def step_kl(self, samples: Sequence[Sample], settings: UpdateSettings) -> float:
        """Return the mean k3 estimate of KL(sampling policy || current policy), in nats per token.

        The result is NaN without sampled tokens.
        """
        samples = [sample for sample in samples if sample.num_actions]
        total = 0.0
        count = 0
        for batch in self.micro_batches(samples):
            logprobs = self._action_logprobs(batch, settings=settings)
            total += k3_kl(batch.old_logprobs.to(logprobs.device), logprobs).sum().item()
            count += len(batch.action_nodes)
        return total / count if count else float("nan")

    def micro_batches(self, samples: Sequence[Sample]) -> Iterator[Batch]:
        """Yield the step's forward passes, within the token budget if each sample fits it."""
        return micro_batches(samples, layout=self.layout, max_tokens=self.max_tokens)

    def logprobs(
        self, batch: Batch, *, temperature: float = 1.0, entropy_gradient: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Return current logprobs and entropy of the batch's nodes, shape (N,) each.

        Args:
            batch: Batch on the model's device.
            temperature: Temperature at which the tokens were sampled.
            entropy_gradient: Compute a gradient of the entropy too.

        Returns:
            Logprobs, with a gradient to the adapter, and entropy in nats.
        """
        hidden = hidden_states(self.decoder, batch, block=self.attention_block)  # (B, S, d)
        predictors = hidden[batch.score_rows, batch.score_positions]  # (N, d)
        return action_logprobs(
            predictors,
            self.head_weight,
            batch.score_ids,
            temperature=temperature,
            entropy_gradient=entropy_gradient,
        )

    @property
    def is_warming_up(self) -> bool:
        """Whether fewer updates were made than the warm-up has."""
        return self.updates < self.warmup_steps

    def state_dict(self) -> dict[str, Any]:
        """Return the state for an exact resume: adapter, optimizer, counters, random state."""
        return {
            "adapter": {name: value.detach().clone() for name, value in self.parameters.items()},
            "optimizer": self.optimizer.state_dict(),
            "updates": self.updates,
            "skipped_updates": self.skipped_updates,
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
        self.updates, self.skipped_updates = state["updates"], state["skipped_updates"]
        torch.set_rng_state(state["torch_rng"])

    def _backward(
        self, samples: Sequence[Sample], loss: Loss, settings: UpdateSettings
    ) -> StepSums:
        """Run forward and backward over all micro-batches of all processes.

        Args:
            samples: Samples of this process. Those without a trained token are ignored.
            loss: Returns the loss of a batch from its entries' logprobs and entropy, shape (E,).
            settings: Temperature, and whether the entropy needs a gradient.

        Returns:
            Sums over the step. The gradient is in the parameters.
        """
        samples = [sample for sample in samples if sample.num_actions and sample.weight != 0]
        sums = StepSums()
        # An interrupted step may have left a partial gradient.
        self.optimizer.zero_grad(set_to_none=True)
        # Only LoRA's dropout, 0 by default, may differ from sampling.
        training_mode(self.model)
        for batch in self.micro_batches(samples):
            batch = batch.to(self.head_weight.device)
            with activation_checkpointing(self.model), attention_of(self.decoder, batch):
                logprobs, entropy = self.logprobs(
                    batch,
                    temperature=settings.temperature,
                    entropy_gradient=settings.entropy_coef > 0,
                )
                output = loss(batch, logprobs[batch.action_nodes], entropy[batch.action_nodes])
                output.loss.backward()
            sums.add(batch, output, entropy)
        sums = StepSums.merged(self.ranks.gather(sums))
        if sums.entries:
            self.ranks.add_gradients(self.parameters.values())
        return sums

    def _apply(self, sums: StepSums, learning_rate: float, *, skip: bool = False) -> Metrics:
        """Clip and apply the gradient. If it is not finite, weights and optimizer are unchanged."""
        rate = learning_rate * min(1.0, (self.updates + 1) / max(self.warmup_steps, 1))
        norm = 0.0
        if sums.entries and not skip:
            norm = torch.nn.utils.clip_grad_norm_(
                self.parameters.values(), self.max_grad_norm
            ).item()
            if math.isfinite(norm) and math.isfinite(sums.loss):
                for group in self.optimizer.param_groups:
                    group["lr"] = rate
                self.optimizer.step()
                self.updates += 1
            else:
                self.skipped_updates += 1
        self.optimizer.zero_grad(set_to_none=True)
        return {
            "grad_norm": norm,
            "learning_rate": rate,
            "optimizer/skipped_updates": float(self.skipped_updates),
        }

    @torch.no_grad()
    def _action_logprobs(self, batch: Batch, *, settings: UpdateSettings) -> Tensor:
        """Return logprobs of the batch's entries without a gradient, shape (E,)."""
        batch = batch.to(self.head_weight.device)
        return self.logprobs(batch, temperature=settings.temperature)[0][batch.action_nodes]

    def _ref_logprobs(self, batch: Batch, settings: UpdateSettings) -> Tensor:
        """Return logprobs of the batch's entries with the adapter off, shape (E,)."""
        with self.model.disable_adapter():
            return self._action_logprobs(batch, settings=settings)


def _total_weight(samples: Sequence[Sample]) -> float:
    return sum(sample.num_actions * sample.weight for sample in samples)
