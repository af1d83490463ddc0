"""Names, meanings and units of the metrics of updates, of time and of reward hacking."""

from __future__ import annotations

from envgym_trainer.run.metric_data import NO_SAMPLE, WARM, Metric

UPDATE = (
    Metric("loss", "Loss of the update", "loss", "loss"),
    Metric("policy_loss", "Loss without KL penalty and entropy bonus", "loss", "", NO_SAMPLE),
    Metric("nll", "Negative log likelihood", "nats/token", absent="Outside the warm start"),
    Metric(
        "entropy",
        "Entropy of the trained tokens. Without any: mean -logprob of the sampled tokens, which "
        "estimates it",
        "nats/token",
        "entropy",
        "No token was sampled",
    ),
    Metric("entropy_coef", "Weight of the entropy bonus", absent="The bonus is off"),
    Metric("grad_norm", "Norm of the gradient before clipping", "", "grad_norm"),
    Metric("learning_rate", "Learning rate of the update", "", "learning_rate"),
    Metric(
        "kl/old_current",
        "k3 estimate of KL(sampling policy || current policy) before the update",
        "nats/token",
        absent=NO_SAMPLE,
    ),
    Metric(
        "kl/current_base",
        "Estimate of KL(current policy || base model)",
        "nats/token",
        "kl",
        "`algorithm.kl.coef` is 0",
    ),
    Metric(
        "kl",
        "Alias of `kl/current_base` under TRL's name",
        "nats/token",
        "kl",
        "`algorithm.kl.coef` is 0",
    ),
    Metric(
        "clip_ratio/{low,high,region}_mean",
        "Fraction of tokens that the lower clip, the upper clip or either of them changed",
        trl="clip_ratio/low_mean, clip_ratio/high_mean, clip_ratio/region_mean",
        absent=NO_SAMPLE,
    ),
    Metric(
        "sampling/sampling_logp_difference/{mean,max}",
        "|log-ratio| of the current policy and the sampling policy",
        "nats",
        "sampling/sampling_logp_difference/mean, sampling/sampling_logp_difference/max",
        NO_SAMPLE,
    ),
    Metric(
        "sampling/importance_sampling_ratio/{mean,max}",
        "Ratio of the current policy and the sampling policy",
        "1",
        "sampling/importance_sampling_ratio/mean, sampling/importance_sampling_ratio/max",
        NO_SAMPLE,
    ),
    Metric(
        "correction/{weight,changed}",
        "Mean importance weight, and fraction of tokens whose weight was bounded",
        absent="Without `algorithm.importance_weights`",
    ),
    Metric(
        "off_policy/mismatch_{mean,max}",
        "|log-ratio| before the first update after sampling: an error",
        "nats",
        absent=f"{NO_SAMPLE}, or the step was prefetched",
    ),
    Metric(
        "off_policy/staleness_{mean,max}",
        "|log-ratio| after the first update since sampling",
        "nats",
        absent="Each step makes one update, on fresh samples",
    ),
    Metric("off_policy/ess", "Effective sample size: (sum r)^2 / (N sum r^2)", "", "", NO_SAMPLE),
    Metric(
        "off_policy/mismatch_alarm",
        "1 if the mismatch is larger than rounding explains",
        absent=f"{NO_SAMPLE}, or the step was prefetched",
    ),
    Metric("optimizer/skipped_updates", "Updates of the run that were not finite", "updates"),
    Metric(
        "controller/step_kl",
        "KL(policy before || after the step)",
        "nats/token",
        absent="Without `controllers.learning_rate`, or no update was made",
    ),
    Metric(
        "controller/update_skipped",
        "1 if an update was skipped because of `optimizer.max_kl`",
        absent="Without `optimizer.max_kl`",
    ),
    Metric(
        "controller/SETTING",
        "Value of a controlled setting for the next step",
        absent="The controller is off",
    ),
    Metric("batch/action_tokens", "Trained tokens", "tokens"),
    Metric("batch/scored_tokens", "Logprobs computed; a shared prefix counts once", "tokens"),
    Metric("batch/forward_tokens", "Tokens read; a shared prefix counts once", "tokens"),
    Metric("batch/compression", "Tokens of all samples divided by the tokens read"),
    Metric(
        "batch/frac_without_gradient",
        "Fraction of samples that were dropped because they have no gradient",
        absent=WARM,
    ),
    Metric(
        "advantage/NAME",
        "Mean absolute share of a reward part in the advantages. All add up to 1",
        absent="All advantages are 0",
    ),
)

TIME = (
    Metric("time/step", "Wall time of the step", "s", "step_time"),
    Metric("time/generate", "Rollout time without the environment's share", "s", "", WARM),
    Metric("time/env", "Rollout time times the environment's share of an episode", "s", "", WARM),
    Metric("time/train", "Time after the rollout", "s", "", WARM),
    Metric("throughput/tokens_per_second", "Sampled or demonstrated tokens per second", "tokens/s"),
    Metric(
        "sandbox/{open,reset,call,call_overhead,diff,close,start}_ms/{p50,p99}",
        "Duration of a sandbox operation",
        "ms",
        absent="No such operation since the last line, or no sandbox",
    ),
    Metric("sandbox/session_mb/{p50,p99}", "Growth of a box per session", "MiB", "", "As above"),
    Metric(
        "sandbox/pool/{hits,waits}",
        "Episodes that got a free box, and that waited for one",
        "episodes",
        absent="The backend has no pool",
    ),
    Metric("sandbox/recycled/REASON", "Boxes replaced by reason", "boxes", "", "Never occurred"),
    Metric("sandbox/failures/KIND", "Failures of this kind", "failures", "", "Never occurred"),
    Metric("sandbox/memory/looks", "Memory measurements of boxes", "looks", "", "Never occurred"),
    Metric("sandbox/bytes/{sent,received}", "Bytes to and from boxes", "bytes", "", "No boxes"),
)

HACKING = (
    Metric(
        "hacking/signal/NAME",
        "1 (alarm) or 0.5 (warning) at the step at which a signal begins, else 0",
        absent="`checks.hacking_signals` is off",
    ),
    Metric(
        "hacking/{modal_share,repetition,extra_calls}",
        "Share of the most frequent answer, of repeated text, and of calls beyond the oracle's",
        absent="Does not apply to the tasks, or `checks.hacking_signals` is off",
    ),
)
