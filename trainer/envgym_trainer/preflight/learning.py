"""The model at its first step: whether what it says is read, and whether its rewards differ, which is all that GRPO learns from."""

from __future__ import annotations

from collections import Counter

from envgym.episode import Episode
from envgym.evaluation.checks.fixture import CheckResult, told
from envgym_trainer.model.lora import lora_layers
from envgym_trainer.preflight.context import Subject
from envgym_trainer.run.metrics import ZERO_STD

GROUPS = 8
"""Groups of the training's own size that may all be alike before a run is refused. With 8 x 8 episodes that happens to one run
in twenty whose model solves 4.6 % of its tasks, and to hardly any that solves more."""
PEEK = (2, 2)
"""Groups and their size where a warm start comes first, in the fast part."""


def adapter(subject: Subject) -> CheckResult:
    """How much is trained; dropout, which makes the learner's probabilities other than those of sampling, is said aloud."""
    lora = subject.config.lora
    layers = len(lora_layers(subject.model))
    count = sum(weight.numel() for weight in subject.model.parameters() if weight.requires_grad)
    words = f"{layers} layers, {count:,} numbers, rank {lora.rank}"
    if lora.dropout:
        why = "at the first update the ratio to the sampled probabilities is not 1, and clipping starts early"
        return CheckResult(
            "adapter",
            True,
            f"{words}; dropout {lora.dropout:g}: {why}. Set train.lora.dropout=0",
            warning=True,
        )
    return CheckResult(
        "adapter", True, words if lora.export == "adapter" else f"{words}; nothing is exported"
    )


def model(subject: Subject) -> CheckResult:
    """Plays some tasks as in training, and tells how its turns were read."""
    has_warm_start = subject.config.warmup.demos > 0
    groups, size = (
        PEEK if has_warm_start and not subject.is_full else (1, subject.config.group_size)
    )
    episodes = [episode for group in subject.play_groups(groups, size) for episode in group]
    void = [told(episode) for episode in episodes if episode.void]
    if len(void) > len(episodes) / 2:
        return CheckResult(
            "model",
            False,
            f"{len(void)} of {len(episodes)} episodes broke: {void[0]}. envgym check tells more",
        )
    modes = _modes(episodes)
    turns = sum(modes.values())
    if not turns:
        return CheckResult("model", True, f"{len(episodes)} episodes played")
    called = turns - modes["none"] - modes["invalid"]
    detail = f"{called} of {turns} turns were read as a tool call, {modes['none']} as words, {modes['invalid']} not at all"
    if called == 0 and not has_warm_start and subject.has_own_tasks:
        return CheckResult(
            "model",
            True,
            f"{detail}. A warm start teaches the form: train.warmup.demos=64",
            warning=True,
        )
    return CheckResult(
        "model", True, detail + ("; a warm start comes first" if has_warm_start else "")
    )


def rewards_differ(subject: Subject) -> CheckResult:
    """Within some group the rewards differ: where all siblings are alike there is no gradient at all."""
    config = subject.config
    if config.steps == 0:
        return CheckResult("rewards_differ", True, "no GRPO step is asked for")
    groups = list(subject.groups)
    if config.warmup.demos == 0 or subject.is_full:
        while not any(map(is_mixed, groups)) and len(groups) < GROUPS:
            groups += subject.play_groups(
                min(GROUPS - len(groups), max(1, len(groups))), config.group_size
            )
    rewards = [
        episode.reward for group in groups for episode in group if episode.reward is not None
    ]
    mixed = sum(map(is_mixed, groups))
    if mixed:
        return CheckResult(
            "rewards_differ",
            True,
            f"in {mixed} of {len(groups)} groups; mean {sum(rewards) / len(rewards):.2f}",
        )
    if config.warmup.demos:
        detail = f"not yet, in {len(groups)} groups; a warm start of {config.warmup.demos} demonstrations comes first"
        return CheckResult("rewards_differ", True, detail)
    return CheckResult("rewards_differ", False, _alike(subject, groups, rewards))


def is_mixed(group: list[Episode]) -> bool:
    """Whether two members of a group have different rewards."""
    rewards = [episode.reward for episode in group if episode.reward is not None]
    return bool(rewards) and max(rewards) - min(rewards) > ZERO_STD


def _modes(episodes: list[Episode]) -> Counter[str]:
    modes: Counter[str] = Counter()
    for episode in episodes:
        modes.update(episode.parse_modes)
    return modes


def _alike(subject: Subject, groups: list[list[Episode]], rewards: list[float]) -> str:
    """Why nothing can be learned from groups that all agree, and what would change it."""
    where = f"all {len(rewards)} episodes of {len(groups)} groups"
    if (
        rewards
        and min(rewards) > 0
        and all(episode.success for group in groups for episode in group)
    ):
        return f"{where} were solved: nothing is left to learn. Train harder tasks (train.levels), or evaluate it as it is"
    worth = (
        f"the reward {rewards[0]:g}"
        if rewards and max(rewards) - min(rewards) <= ZERO_STD
        else "their siblings' reward"
    )
    warm = "a warm start on the oracle (train.warmup.demos=64)"
    easier = "easier tasks (train.levels, a curriculum)"
    partial = "a reward with steps (a weight on state_progress)"
    if not subject.has_own_tasks:
        warm = "a stronger model (train.model)"
        easier = "easier seeds"
        partial = "a reward that grows on the way"
    return f"{where} have {worth}, so no step has a gradient. Take {warm}, {easier}, or {partial}"
