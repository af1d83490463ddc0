"""Names, meanings and units of all metrics that a run logs, by section of the reference page."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric, or one family of metrics."""

    name: str
    """Name. A word in capitals stands for any text; `{a,b}` stands for one of several."""
    meaning: str
    unit: str = "1"
    """Unit. `1` is a fraction or another number without a unit."""
    trl: str = ""
    """Name of the same quantity in TRL's GRPO trainer; empty if TRL does not log it."""
    absent: str = ""
    """Condition under which the metric is absent; empty if each training step has it."""


_NO_SAMPLE = "No group can be trained on"
_WARM = "During the warm start"
_NO_PAIR = "Without a group of two valid members"
_VOID = "Every episode is void"
_NO_JUDGE = "Without an LLM judge in training"

REWARD = (
    Metric("reward", "Mean reward of the valid episodes", "reward", "reward", _WARM),
    Metric("reward_std", "Mean of the groups' deviations", "reward", "reward_std", _NO_PAIR),
    Metric(
        "frac_reward_zero_std", "Groups of equal rewards", "1", "frac_reward_zero_std", _NO_PAIR
    ),
    Metric(
        "rewards/NAME/{mean,std}",
        "Mean and standard deviation of a part's value, without weight",
        "part",
        "rewards/NAME/mean, rewards/NAME/std",
        "The part applies to no episode (std: to fewer than two)",
    ),
    Metric(
        "rewards/NAME/contribution",
        "Mean contribution of a part to the reward. All contributions add up to `reward`",
        "reward",
        absent="The part has weight 0",
    ),
    Metric("rewards/NAME/running_std", "Divisor of the part", "part", "", "No `scale: running`"),
    Metric(
        "rewards/NAME/failed",
        "Groups for which a group part raised an error and was masked",
        "groups",
        absent="Before the part's first failure",
    ),
    Metric(
        "reward_weights/NAME",
        "Factor by which adaptive weighting multiplies the part's weight",
        absent="With `reward_weights.mode: fixed`",
    ),
    Metric(
        "judge/{requests,judgements,cached}",
        "Requests to LLM judges, valid judgements and cache hits since the start of the session",
        "requests",
        absent=_NO_JUDGE,
    ),
    Metric(
        "judge/{budget,timeout,unreachable,server,too_long,bad_answer}",
        "Missing judgements by reason since the start of the session",
        "requests",
        absent=_NO_JUDGE,
    ),
)

EPISODES = (
    Metric("success", "Fraction of episodes that solved the task", absent="Success is unknown"),
    Metric("success/level/LEVEL", "Success on tasks of one level", absent="Tasks have no level"),
    Metric("n", "Valid episodes of an evaluation", "episodes", absent="In training"),
    Metric("n/level/LEVEL", "Valid episodes of one level", "episodes", absent="In training"),
    Metric("episode/n", "Valid episodes of the step", "episodes", absent=_WARM),
    Metric("episode/turns", "Mean number of the policy's turns", "turns", absent=_WARM),
    Metric("episode/void", "Void episodes: the world failed, also after the retry", "episodes"),
    Metric("episode/retried", "Episodes that were retried after a failure", "episodes"),
    Metric(
        "episode/seconds_PLACE",
        "Mean time of an episode in the policy or in the environment",
        "s",
        absent=_WARM,
    ),
    Metric(
        "completions/{mean,min,max}_length",
        "Sampled tokens of an episode",
        "tokens",
        "completions/mean_length, completions/min_length, completions/max_length",
        "Episodes have no tokens",
    ),
    Metric(
        "completions/clipped_ratio",
        "Fraction of episodes whose last answer a token limit cut, or whose context is full",
        trl="completions/clipped_ratio",
        absent=_WARM,
    ),
    Metric("completions/clipped_answers", "Fraction of cut answers, all turns", "1", "", _WARM),
    Metric("tools/call_frequency", "Calls per episode", "calls", "tools/call_frequency", _WARM),
    Metric(
        "tools/failure_frequency",
        "Fraction of tool calls that were rejected",
        trl="tools/failure_frequency",
        absent=_WARM,
    ),
    Metric("tools/fault_frequency", "Fraction of calls in which the tool failed", absent=_WARM),
    Metric("dialect/NAME", "Fraction of turns in this tool-call dialect", absent="Never used"),
    Metric("stop/REASON", "Fraction of episodes with this stop reason", absent="Never occurred"),
    Metric(
        "failures/stage/STAGE",
        "Failures of the world at this stage, first attempts included",
        "failures",
        absent="Never occurred",
    ),
    Metric(
        "failures/KIND",
        "Failures of the world of this kind, first attempts included",
        "failures",
        absent="Never occurred",
    ),
)

GROUPS = (
    Metric("group/with_variance", "Groups used whose rewards differ", "groups", absent=_WARM),
    Metric("group/too_few_valid", "Groups with fewer than two valid members", "groups", "", _WARM),
    Metric(
        "group/different_starts",
        "Groups excluded because their members started differently",
        "groups",
        absent=_WARM,
    ),
    Metric("group/retried_members", "Void members that were replaced", "episodes", "", _WARM),
    Metric("group/void_members", "Mean fraction of a group's members that are void"),
    Metric(
        "group/frac_all_{zero,one}",
        "Fraction of groups in which no member, or every member, succeeded",
        absent="Without a group of two members with a known success",
    ),
    Metric(
        "group/frac_all_{zero,one}/template/TEMPLATE",
        "The same for tasks of one template",
        absent="No such group of this template",
    ),
    Metric(
        "group/frac_all_{zero,one}/LEVEL",
        "The same for tasks of one level",
        absent="No such group of this level",
    ),
    Metric(
        "rollout/extra_groups",
        "Groups without reward variance that dynamic sampling replaced",
        "groups",
        absent=_WARM,
    ),
    Metric(
        "rollout/discarded_episodes", "Episodes of the replaced groups", "episodes", absent=_WARM
    ),
    Metric(
        "engine/idle_fraction",
        "Fraction of the rollout time in which the engine had no work",
        absent="The engine does not measure it",
    ),
)

CURRICULUM = (
    Metric(
        "curriculum/draw_probability/TEMPLATE",
        "Probability with which a template is drawn. All add up to 1",
        absent="Without an adaptive curriculum and without levels to unlock",
    ),
    Metric(
        "curriculum/pass_rate/TEMPLATE",
        "Moving average of a template's success",
        absent="The template was not yet played, or there is no curriculum",
    ),
    Metric(
        "curriculum/level_pass_rate/LEVEL",
        "Moving average of a level's success",
        absent="The level was not yet played, or there is no curriculum",
    ),
    Metric("curriculum/unlocked", "Unlocked levels", "levels", absent="Without `tasks.unlock_at`"),
    Metric("curriculum/max_turns", "Limit of turns", "turns", absent="Without `tasks.horizon`"),
    Metric(
        "plan/{true_labels,disagreed}",
        "Groups with a true label, and groups excluded because of low agreement",
        "groups",
        absent="Without self-training",
    ),
    Metric(
        "plan/{parsed,majority_ratio,labelled,majority_voting_reward}",
        "Votes: texts with an answer, agreement, groups with a label, reward against the label",
        absent="Without self-training, or no group was voted on",
    ),
    Metric(
        "plan/{ground_truth_ratio,pass@n,labelled_right,label_accuracy,reward_accuracy}",
        "Votes against the truth; see `majority_vote.vote_metrics`",
        absent="Without self-training, or no voted group has a known truth",
    ),
    Metric(
        "plan/pass_rate/BAND",
        "Fraction of voted groups by their percentage of right rollouts",
        absent="Without self-training, or no voted group has a known truth",
    ),
)

UPDATE = (
    Metric("loss", "Loss of the update", "loss", "loss"),
    Metric("policy_loss", "Loss without KL penalty and entropy bonus", "loss", "", _NO_SAMPLE),
    Metric("nll", "Negative log likelihood", "nats/token", absent="Outside the warm start"),
    Metric("entropy", "Entropy, estimated if no token is trained", "nats/token", "entropy", _VOID),
    Metric("entropy_coef", "Weight of the entropy bonus", absent="The bonus is off"),
    Metric("grad_norm", "Norm of the gradient before clipping", "", "grad_norm"),
    Metric("learning_rate", "Learning rate of the update", "", "learning_rate"),
    Metric(
        "kl/old_current",
        "k3 estimate of KL(sampling policy || current policy) before the update",
        "nats/token",
        absent=_NO_SAMPLE,
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
        absent=_NO_SAMPLE,
    ),
    Metric(
        "sampling/sampling_logp_difference/{mean,max}",
        "|log-ratio| of the current policy and the sampling policy",
        "nats",
        "sampling/sampling_logp_difference/mean, sampling/sampling_logp_difference/max",
        _NO_SAMPLE,
    ),
    Metric(
        "sampling/importance_sampling_ratio/{mean,max}",
        "Ratio of the current policy and the sampling policy",
        "1",
        "sampling/importance_sampling_ratio/mean, sampling/importance_sampling_ratio/max",
        _NO_SAMPLE,
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
        absent=f"{_NO_SAMPLE}, or the step was prefetched",
    ),
    Metric(
        "off_policy/staleness_{mean,max}",
        "|log-ratio| after the first update since sampling",
        "nats",
        absent="Each step makes one update, on fresh samples",
    ),
    Metric("off_policy/ess", "Effective sample size: (sum r)^2 / (N sum r^2)", "", "", _NO_SAMPLE),
    Metric(
        "off_policy/mismatch_alarm",
        "1 if the mismatch is larger than rounding explains",
        absent=f"{_NO_SAMPLE}, or the step was prefetched",
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
        absent=_WARM,
    ),
    Metric(
        "advantage/NAME",
        "Mean absolute share of a reward part in the advantages. All add up to 1",
        absent="All advantages are 0",
    ),
)

TIME = (
    Metric("time/step", "Wall time of the step", "s", "step_time"),
    Metric("time/generate", "Rollout time without the environment's share", "s", "", _WARM),
    Metric("time/env", "Rollout time times the environment's share of an episode", "s", "", _WARM),
    Metric("time/train", "Time after the rollout", "s", "", _WARM),
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
