"""Compute the configured loss of a batch: importance weights, policy loss and KL penalty.

See `losses/` for the policy losses and `aggregation.py` for weights and denominator.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from envgym_trainer.algorithms.correction import importance_weights
from envgym_trainer.algorithms.kl import ESTIMATORS, k3_kl, with_kl_in_reward
from envgym_trainer.algorithms.losses import LossInputs, LossOutput, TokenLosses
from envgym_trainer.algorithms.registry import find_loss
from envgym_trainer.batch import Batch
from envgym_trainer.config.algorithm import AlgorithmConfig


def policy_loss(
    algorithm: AlgorithmConfig,
    batch: Batch,
    logprobs: Tensor,
    *,
    denominator: float,
    clip_low: float | None = None,
    clip_high: float | None = None,
    kl_coef: float = 0.0,
    ref_logprobs: Tensor | None = None,
) -> LossOutput:
    """Return the loss of one micro-batch, as its share of the step's loss.

    Args:
        algorithm: Loss with its options, KL penalty and importance weights.
        batch: Batch whose samples carry weights from `weigh_samples`.
        logprobs: Logprobs under the current policy, shape (E,), with gradient.
        denominator: Denominator of the whole step.
        clip_low: Value of the loss's option `clip_low`, if it has one. By default the algorithm's.
        clip_high: Value of the loss's option `clip_high`, if it has one. By default the
            algorithm's.
        kl_coef: Weight of the KL penalty.
        ref_logprobs: Logprobs without the adapter, shape (E,). Required if kl_coef > 0.

    Returns:
        The loss. With importance weights it has the sums `correction/weight` and
        `correction/changed`.
    """
    inputs = LossInputs(
        logprobs=logprobs,
        old_logprobs=batch.old_logprobs,
        advantages=batch.advantages,
        weights=batch.weights,
        samples=batch.action_samples,
        denominator=denominator,
        ref_logprobs=ref_logprobs,
    )
    kl = algorithm.kl
    if kl.place == "reward" and kl_coef > 0 and ref_logprobs is not None:
        lowered = with_kl_in_reward(
            inputs.advantages,
            inputs.old_logprobs,
            ref_logprobs,
            inputs.samples,
            kl_coef=kl_coef,
            estimator=kl.estimator,
        )
        inputs = dataclasses.replace(inputs, advantages=lowered)
        # The penalty is already in the advantages. The estimate is still logged.
        kl_coef = 0.0
    inputs, sums = _corrected(algorithm, batch, inputs)
    tokens = find_loss(algorithm.loss.name)(inputs, **_options(algorithm, clip_low, clip_high))
    output = total_loss(inputs, tokens, kl_coef=kl_coef, estimator=kl.estimator)
    return dataclasses.replace(output, sums=output.sums | sums)


def total_loss(
    inputs: LossInputs, tokens: TokenLosses, *, kl_coef: float = 0.0, estimator: str = "k3"
) -> LossOutput:
    """Return sum(weight * (loss + kl_coef * kl)) / denominator, and the shared metrics.

    Args:
        inputs: Inputs of the loss.
        tokens: Output of the loss.
        kl_coef: Weight of the KL penalty.
        estimator: Estimator of KL(policy || reference); see `kl.py`.

    Returns:
        LossOutput. Metrics use TRL's names if TRL has one. `kl/old_current` is the k3 estimate of
        KL(old || current), `kl/current_base` the chosen estimate of KL(current || reference).

    Raises:
        ValueError: If kl_coef > 0 and there are no `ref_logprobs`.
    """
    logprobs = inputs.logprobs
    if kl_coef > 0 and inputs.ref_logprobs is None:
        raise ValueError(
            f"kl_coef is {kl_coef}, so ref_logprobs are needed. Compute them with the adapter off, "
            "or set kl_coef to 0."
        )
    per_token = tokens.values
    penalty = None
    if inputs.ref_logprobs is not None:
        penalty = ESTIMATORS[estimator](logprobs, inputs.ref_logprobs)
        if kl_coef > 0:
            per_token = per_token + kl_coef * penalty
    with torch.no_grad():
        drift = (logprobs - inputs.old_logprobs).abs()
        never = torch.zeros_like(logprobs, dtype=torch.bool)
        low = never if tokens.low is None else tokens.low
        high = never if tokens.high is None else tokens.high
        ratio = tokens.ratio
        if ratio is None:
            ratio = (logprobs - inputs.old_logprobs).exp()
        sums = {
            "policy_loss": tokens.values * inputs.weights,
            "kl/old_current": k3_kl(inputs.old_logprobs, logprobs),
            "clip_ratio/low_mean": low,
            "clip_ratio/high_mean": high,
            "clip_ratio/region_mean": low | high,
            "sampling/sampling_logp_difference/mean": drift,
            "sampling/importance_sampling_ratio/mean": ratio,
        } | ({} if penalty is None else {"kl/current_base": penalty})
        maxima = {
            "sampling/sampling_logp_difference/max": drift,
            "sampling/importance_sampling_ratio/max": ratio,
        }
    return LossOutput(
        (per_token * inputs.weights).sum() / inputs.denominator,
        {name: value.detach().sum() for name, value in sums.items()},
        {name: value.detach().max() for name, value in maxima.items() if value.numel()},
    )


def needs_scoring(algorithm: AlgorithmConfig) -> bool:
    """Return whether logprobs must be recomputed before the step's first update."""
    corrects = algorithm.importance_weights.mode != "none"
    return corrects and find_loss(algorithm.loss.name).uses_ratio


def _options(
    algorithm: AlgorithmConfig, clip_low: float | None, clip_high: float | None
) -> dict[str, Any]:
    """Return the options of the loss, with the clip range of this update if it has one."""
    options = algorithm.loss.options
    for name, value in (("clip_low", clip_low), ("clip_high", clip_high)):
        if name in options and value is not None:
            options[name] = value
    return options


def _corrected(
    algorithm: AlgorithmConfig, batch: Batch, inputs: LossInputs
) -> tuple[LossInputs, dict[str, Tensor]]:
    """Return the inputs with importance weights, and the metrics of the weights.

    The weights are those of the trainer's policy over the sampling policy. The trainer's logprobs
    are those before the first update, or the current ones if the loss has no ratio.
    """
    correction = algorithm.importance_weights
    if correction.mode == "none":
        return inputs, {}
    uses_ratio = find_loss(algorithm.loss.name).uses_ratio
    scored = batch.trainer_logprobs if uses_ratio else inputs.logprobs.detach()
    if scored is None:
        raise ValueError(
            "a correction needs the trainer's logprobs from before the first update. Call "
            "Learner.with_trainer_logprobs(samples, settings) first."
        )
    sampled = inputs.old_logprobs
    factor = importance_weights(
        scored,
        sampled,
        inputs.samples,
        mode=correction.mode,
        level=correction.per,
        cap=correction.max,
        floor=correction.min,
    )
    plain = importance_weights(
        scored, sampled, inputs.samples, mode="truncate", level=correction.per, cap=torch.inf
    )
    corrected = dataclasses.replace(
        inputs,
        weights=inputs.weights * factor,
        old_logprobs=sampled if batch.trainer_logprobs is None else batch.trainer_logprobs,
    )
    return corrected, {
        "correction/weight": factor.sum(),
        "correction/changed": (factor != plain).sum(),
    }
