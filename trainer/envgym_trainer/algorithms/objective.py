"""Compute the configured loss of a batch: KL penalty, off-policy correction and policy loss.

See `losses/` for the formulas and `aggregation.py` for weights and denominator.
"""

from __future__ import annotations

import torch
from torch import Tensor

from envgym_trainer.algorithms.correction import importance_weights
from envgym_trainer.algorithms.kl import with_kl_in_reward
from envgym_trainer.algorithms.losses import LossOutput
from envgym_trainer.algorithms.losses.cispo import cispo_loss
from envgym_trainer.algorithms.losses.grpo import grpo_loss
from envgym_trainer.algorithms.losses.gspo import gspo_loss
from envgym_trainer.algorithms.losses.reinforce import reinforce_loss
from envgym_trainer.batch import Batch
from envgym_trainer.config.algorithm import AlgorithmConfig


def policy_loss(
    algorithm: AlgorithmConfig,
    batch: Batch,
    logprobs: Tensor,
    *,
    denominator: float,
    clip_low: float,
    clip_high: float,
    kl_coef: float,
    ref_logprobs: Tensor | None,
) -> LossOutput:
    """Return the loss of one micro-batch, as its share of the step's loss.

    Args:
        batch: Batch whose samples carry weights from `aggregated`.
        logprobs: Logprobs under the current policy, shape (E,), with gradient.
        denominator: Denominator of the whole step.
        ref_logprobs: Logprobs without the adapter, shape (E,). Required if kl_coef > 0.

    Returns:
        The loss. With a correction it has the sums `correction/weight` and `correction/changed`.
    """
    advantages = batch.advantages
    weights = batch.weights
    old_logprobs = batch.old_logprobs
    options = {"kl_coef": kl_coef, "ref_logprobs": ref_logprobs, "kl": algorithm.kl.estimator}
    if algorithm.kl.place == "reward" and kl_coef > 0 and ref_logprobs is not None:
        advantages = with_kl_in_reward(
            advantages,
            old_logprobs,
            ref_logprobs,
            batch.action_samples,
            kl_coef=kl_coef,
            estimator=algorithm.kl.estimator,
        )
        # The penalty is already in the advantages. The estimate is still logged.
        options["kl_coef"] = 0.0
    sums: dict[str, Tensor] = {}
    if algorithm.importance_weights.mode != "none":
        factor, sums = _correction(algorithm, batch, logprobs)
        weights = weights * factor
        old_logprobs = old_logprobs if batch.trainer_logprobs is None else batch.trainer_logprobs
    options |= {"denominator": denominator, "weights": weights}
    if algorithm.loss.name == "reinforce":
        output = reinforce_loss(logprobs, old_logprobs, advantages, **options)
    elif algorithm.loss.name == "gspo":
        output = gspo_loss(
            logprobs,
            old_logprobs,
            advantages,
            batch.action_samples,
            clip_low=clip_low,
            clip_high=clip_high,
            **options,
        )
    else:
        ratio_loss = cispo_loss if algorithm.loss.name == "cispo" else grpo_loss
        output = ratio_loss(
            logprobs, old_logprobs, advantages, clip_low=clip_low, clip_high=clip_high, **options
        )
    return LossOutput(output.loss, output.sums | sums, output.maxima)


def needs_scoring(algorithm: AlgorithmConfig) -> bool:
    """Return whether logprobs must be recomputed before the step's first update."""
    return algorithm.importance_weights.mode != "none" and algorithm.loss.name != "reinforce"


def _correction(
    algorithm: AlgorithmConfig, batch: Batch, logprobs: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return importance weights of the trainer's policy over the sampling policy, shape (E,).

    The trainer's logprobs are those before the first update, or the current ones if the loss has no
    ratio.
    """
    correction = algorithm.importance_weights
    scored = logprobs.detach() if algorithm.loss.name == "reinforce" else batch.trainer_logprobs
    if scored is None:
        raise ValueError(
            "a correction needs the trainer's logprobs from before the first update. Call "
            "Learner.with_trainer_logprobs(samples, settings) first."
        )
    options = {
        "mode": correction.mode,
        "level": correction.per,
        "cap": correction.max,
        "floor": correction.min,
    }
    factor = importance_weights(scored, batch.old_logprobs, batch.action_samples, **options)
    plain = importance_weights(
        scored,
        batch.old_logprobs,
        batch.action_samples,
        mode="truncate",
        level=correction.per,
        cap=torch.inf,
    )
    return factor, {
        "correction/weight": factor.sum(),
        "correction/changed": (factor != plain).sum(),
    }
