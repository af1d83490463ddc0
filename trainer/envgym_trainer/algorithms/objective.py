"""From a batch to the loss that the settings ask for: the KL penalty's place, the correction, the right file of `losses/`.

Left out: the formulas (`losses/`), weights and denominator (`aggregation.py`).
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
    """One micro-batch's share of the step's loss.

    Args:
        batch: its samples carry weights of `aggregated`.
        logprobs: (E,) of the batch's entries under the current policy, with gradient.
        denominator: of the whole step.
        ref_logprobs: (E,) with the adapter off; needed when kl_coef > 0.
    Returns: LossOutput; with a correction also the sums `correction/weight` and `correction/changed`.
    """
    advantages = batch.advantages
    weights = batch.weights
    old_logprobs = batch.old_logprobs
    options = {"kl_coef": kl_coef, "ref_logprobs": ref_logprobs, "kl": algorithm.kl}
    if algorithm.kl_place == "reward" and kl_coef > 0 and ref_logprobs is not None:
        advantages = with_kl_in_reward(
            advantages,
            old_logprobs,
            ref_logprobs,
            batch.entry_samples,
            kl_coef=kl_coef,
            estimator=algorithm.kl,
        )
        options["kl_coef"] = 0.0  # it is in the advantages now; the estimate is still logged
    sums: dict[str, Tensor] = {}
    if algorithm.correction.mode != "none":
        factor, sums = _correction(algorithm, batch, logprobs)
        weights = weights * factor
        old_logprobs = old_logprobs if batch.scored_logprobs is None else batch.scored_logprobs
    options |= {"denominator": denominator, "weights": weights}
    if algorithm.loss == "reinforce":
        output = reinforce_loss(logprobs, old_logprobs, advantages, **options)
    elif algorithm.loss == "gspo":
        output = gspo_loss(
            logprobs,
            old_logprobs,
            advantages,
            batch.entry_samples,
            clip_low=clip_low,
            clip_high=clip_high,
            **options,
        )
    else:
        ratio_loss = cispo_loss if algorithm.loss == "cispo" else grpo_loss
        output = ratio_loss(
            logprobs, old_logprobs, advantages, clip_low=clip_low, clip_high=clip_high, **options
        )
    return LossOutput(output.loss, output.sums | sums, output.maxima)


def needs_scoring(algorithm: AlgorithmConfig) -> bool:
    """Whether the trainer must score the samples before the step's first update. Without a ratio there is nothing to anchor."""
    return algorithm.correction.mode != "none" and algorithm.loss != "reinforce"


def _correction(
    algorithm: AlgorithmConfig, batch: Batch, logprobs: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """(E,) importance weights from the sampler to the first scoring, or to the current policy where the loss has no ratio."""
    correction = algorithm.correction
    scored = logprobs.detach() if algorithm.loss == "reinforce" else batch.scored_logprobs
    if scored is None:
        raise ValueError(
            "a correction needs the trainer's first scoring of the samples. Call Learner.scored(samples) before."
        )
    options = {
        "mode": correction.mode,
        "level": correction.level,
        "cap": correction.cap,
        "floor": correction.floor,
    }
    factor = importance_weights(scored, batch.old_logprobs, batch.entry_samples, **options)
    plain = importance_weights(
        scored,
        batch.old_logprobs,
        batch.entry_samples,
        mode="truncate",
        level=correction.level,
        cap=torch.inf,
    )
    return factor, {
        "correction/weight": factor.sum(),
        "correction/changed": (factor != plain).sum(),
    }
