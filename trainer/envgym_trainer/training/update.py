"""Update the adapter from the groups of one step."""

from __future__ import annotations

import math
from collections.abc import Sequence

from envgym.episode import Episode
from envgym_trainer.algorithms.credit import samples_by_group
from envgym_trainer.batch import Sample
from envgym_trainer.learner.controllers import STEP_KL
from envgym_trainer.learner.off_policy import inner_updates
from envgym_trainer.run.metrics import Metrics
from envgym_trainer.training.build import TrainingRun


def update_policy(
    run: TrainingRun, groups: Sequence[list[Episode]], *, sampled_at: int | None = None
) -> Metrics:
    """Make the updates of one step, and set `run.settings` to those of the next step.

    Args:
        run: Training run.
        groups: Groups of the step.
        sampled_at: Number of updates when the sampler took over its adapter. Default: the current
            number.

    Raises:
        SamplerMismatch: If sampler and trainer disagree and `checks.on_mismatch` is `stop`. No
            update was made.
    """
    options = run.config.optimizer
    samples = [
        run.learner.with_trainer_logprobs(group, run.settings)
        for group in samples_by_group(list(groups), run.config.algorithm)
    ]
    shares = split_into_shares(samples, options.updates_per_step)
    metrics = inner_updates(
        run.learner,
        shares,
        run.settings,
        epochs=options.epochs_per_step,
        watch=run.mismatch_monitor,
        sampled_at=sampled_at,
    )
    # Without an update the policy did not change.
    if run.controllers.needs_step_kl and metrics.get("grad_norm"):
        trained = [sample for share in shares for sample in share]
        metrics[STEP_KL] = run.learner.step_kl(trained, run.settings)
    run.settings = run.controllers.next(
        run.settings, metrics, is_warming_up=run.learner.is_warming_up
    )
    if not math.isfinite(metrics.get("entropy", 0.0)):
        del metrics["entropy"]
    return metrics | run.controllers.metrics()


def split_into_shares(groups: Sequence[Sequence[Sample]], count: int) -> list[list[Sample]]:
    """Return the samples of at most `count` disjoint shares of the groups, one for each update."""
    count = min(count, len(groups))
    return [[sample for group in groups[n::count] for sample in group] for n in range(count)]
