"""Names, meanings and units of the metrics of episodes, by section of the reference page.

`metric_data_training.py` has those of updates, of time and of reward hacking.
"""

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


NO_SAMPLE = "No group can be trained on"
WARM = "During the warm start"
_NO_PAIR = "Without a group of two valid members"
_NO_JUDGE = "Without an LLM judge in training"

REWARD = (
    Metric("reward", "Mean reward of the valid episodes", "reward", "reward", WARM),
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
    Metric("episode/n", "Valid episodes of the step", "episodes", absent=WARM),
    Metric("episode/turns", "Mean number of the policy's turns", "turns", absent=WARM),
    Metric("episode/void", "Void episodes: the world failed, also after the retry", "episodes"),
    Metric("episode/retried", "Episodes that were retried after a failure", "episodes"),
    Metric(
        "episode/seconds_PLACE",
        "Mean time of an episode in the policy or in the environment",
        "s",
        absent=WARM,
    ),
    Metric(
        "episode/rewritten_turns",
        "Times that the chat template rewrote an earlier turn, for each episode; see "
        "prompt.keep_reasoning",
        "turns",
        absent="No turn was rewritten",
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
        absent=WARM,
    ),
    Metric(
        "completions/clipped_answers",
        "Fraction of answers, of all turns, that a token limit cut",
        absent=f"{WARM}, or the record has no answers",
    ),
    Metric("tools/call_frequency", "Calls per episode", "calls", "tools/call_frequency", WARM),
    Metric(
        "tools/failure_frequency",
        "Fraction of tool calls that were rejected",
        trl="tools/failure_frequency",
        absent=WARM,
    ),
    Metric("tools/fault_frequency", "Fraction of calls in which the tool failed", absent=WARM),
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
    Metric("group/with_variance", "Groups used whose rewards differ", "groups", absent=WARM),
    Metric("group/too_few_valid", "Groups with fewer than two valid members", "groups", "", WARM),
    Metric(
        "group/different_starts",
        "Groups excluded because their members started differently",
        "groups",
        absent=WARM,
    ),
    Metric("group/retried_members", "Void members that were replaced", "episodes", "", WARM),
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
        absent=WARM,
    ),
    Metric(
        "rollout/discarded_episodes", "Episodes of the replaced groups", "episodes", absent=WARM
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
