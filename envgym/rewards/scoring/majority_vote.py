"""Self-training by majority vote: the answers of a group determine the label that rewards them.

    vote            answers -> Vote: label, agreement, tie
    text_vote       the same for texts with boxed answers
    vote_rewards    texts -> 1 if the answer equals the label, 0 if not, None without a label
    vote_metrics    metrics of votes, with and without a truth

A vote ignores the truth: a policy that gives the same answer everywhere gets 1.0. Use it for a
bounded budget, with some true labels (`choose_labelled`), the groups of highest agreement
(`keep_most_agreed`), and `HackingDetector`. Source: SRT, arXiv 2505.21444; TTRL, arXiv 2504.16084.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Container, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from envgym.errors import UsageError, did_you_mean
from envgym.rewards.scoring.answer_normalization import (
    Reading,
    extract_boxed,
    last_number,
    raw,
    value_of,
)
from envgym.tasks import stable_seed

Spelling = Literal["equivalent", "raw"]
"""Identity of votes: answers of equal meaning, or equal strings as in the reference."""
Divisor = Literal["rollouts", "parsable"]
"""Denominator of the agreement: all texts, or only those with an answer."""


@dataclass(frozen=True, slots=True)
class Vote:
    """Result of the vote of one group."""

    label: str | None
    """Winning answer as first written, or `None` without an answer or below the threshold."""
    agreement: float
    """Fraction of votes for the winning answer, from 0 to 1; 0 without an answer."""
    counts: dict[str, int]
    """Answer as first written -> number of votes, in order of first occurrence."""
    parsable: float
    """Fraction of the texts that contain an answer."""
    tie: bool
    """True if another answer has as many votes; the one that occurred first wins."""


def vote(
    answers: Sequence[str | None],
    *,
    reading: Reading = value_of,
    threshold: float = 0.0,
    divide_by: Divisor = "rollouts",
) -> Vote:
    """Count the answers of one group.

    Args:
        answers: One answer per rollout. `None` or white space is not a vote.
        reading: Normalizer that decides which answers are the same; `raw` compares strings.
        threshold: Minimum agreement for a label.
        divide_by: See `Divisor`. SRT's first version uses `parsable`, its Reasoning Gym branch
            `rollouts`.

    Raises:
        UsageError: If there are no rollouts, the threshold is outside 0 to 1, or the divisor is
            unknown.
    """
    if not answers or not 0.0 <= threshold <= 1.0:
        raise UsageError(
            f"a vote needs at least one rollout and a threshold from 0 to 1, "
            f"got {len(answers)} and {threshold}"
        )
    _check("divide_by", divide_by, get_args(Divisor))
    given = [answer for answer in answers if answer is not None and answer.strip()]
    written: dict[Hashable, str] = {}
    for answer in given:
        written.setdefault(reading(answer), answer)
    votes = Counter(written[reading(answer)] for answer in given)
    if not votes:
        return Vote(None, 0.0, {}, 0.0, tie=False)
    # `most_common` keeps the order of first occurrence for equal counts.
    (label, most), *others = votes.most_common(2)
    agreement = most / len(answers if divide_by == "rollouts" else given)
    tie = bool(others) and others[0][1] == most
    return Vote(
        label if agreement >= threshold else None,
        agreement,
        dict(votes),
        len(given) / len(answers),
        tie,
    )


def text_vote(
    texts: Sequence[str],
    *,
    votes: Spelling = "equivalent",
    reading: Reading = value_of,
    threshold: float = 0.0,
    divide_by: Divisor = "rollouts",
) -> Vote:
    """Return the vote over the last boxed answers of the texts.

    See `vote_rewards` for the options and errors.
    """
    _check("votes", votes, get_args(Spelling))
    answers = [extract_boxed(text) for text in texts]
    return vote(
        answers,
        reading=raw if votes == "raw" else reading,
        threshold=threshold,
        divide_by=divide_by,
    )


def vote_rewards(
    texts: Sequence[str],
    *,
    voters: Sequence[str] | None = None,
    votes: Spelling = "equivalent",
    reading: Reading = value_of,
    threshold: float = 0.0,
    soft: bool = False,
    divide_by: Divisor = "rollouts",
    lax: bool = False,
) -> list[float | None]:
    """Return the reward of each rollout of one task by the group's majority label.

    Args:
        texts: Final messages of the rollouts; the last box contains the answer.
        voters: Texts that vote, such as answers of a frozen or averaged teacher. Default: `texts`.
        votes: `raw` counts exact strings. A rollout is still compared with the label by `reading`.
        reading: Normalizer that decides which answers are the same.
        threshold: Minimum agreement for a label.
        soft: Return the fraction of voters with the same answer instead of 1 or 0.
        divide_by: See `Divisor`.
        lax: Score a rollout without a box by its last number, although it does not vote (the
            reference's verifier).

    Returns:
        One reward per text, from 0.0 to 1.0. If the vote yields no label, all are `None`.

    Raises:
        UsageError: If there are no texts or voters, or an option is unknown.
    """
    if not texts:
        raise UsageError("vote_rewards needs at least one text")
    counted = texts if voters is None else voters
    cast = text_vote(
        counted, votes=votes, reading=reading, threshold=threshold, divide_by=divide_by
    )
    if cast.label is None:
        return [None] * len(texts)
    if not soft:
        return list(label_rewards(texts, cast.label, reading=reading, lax=lax))
    weight: Counter[Hashable] = Counter()
    for answer, count in cast.counts.items():
        weight[reading(answer)] += count
    voices = len(counted) if divide_by == "rollouts" else weight.total()
    return [
        0.0 if given is None else weight[reading(given)] / voices
        for given in (_judged(text, lax) for text in texts)
    ]


def label_rewards(
    texts: Sequence[str], label: str, *, reading: Reading = value_of, lax: bool = False
) -> list[float]:
    """Return 1.0 for each text whose answer equals the label, otherwise 0.0.

    The label may be a true one or the result of a vote.
    """
    wanted = reading(label)
    return [
        float(given is not None and reading(given) == wanted)
        for given in (_judged(text, lax) for text in texts)
    ]


def _judged(text: str, lax: bool) -> str | None:
    boxed = extract_boxed(text)
    if boxed is None and lax:
        return last_number(text)
    return boxed if boxed and boxed.strip() else None


def _check(name: str, value: str, options: Sequence[str]) -> None:
    """Check an option, because a misspelt one in a YAML file must not act as the default."""
    if value not in options:
        raise UsageError(
            f"{name} is {value!r}{did_you_mean(value, options)}; available: {', '.join(options)}"
        )


def pooled_rewards(prompts: Sequence[str], texts: Sequence[str], **options) -> list[float | None]:
    """Return `vote_rewards` for a whole batch, in which all rollouts of one prompt vote together.

    Args:
        prompts: Prompt of each rollout.
        texts: Final message of each rollout.
        options: See `vote_rewards`.

    Raises:
        ValueError: If `prompts` and `texts` differ in length.
        UsageError: See `vote_rewards`.
    """
    rewards: list[float | None] = [None] * len(texts)
    groups: dict[str, list[int]] = {}
    for index, (prompt, _) in enumerate(zip(prompts, texts, strict=True)):
        groups.setdefault(prompt, []).append(index)
    for members in groups.values():
        for index, reward in zip(
            members, vote_rewards([texts[i] for i in members], **options), strict=True
        ):
            rewards[index] = reward
    return rewards


def keep_most_agreed(
    votes: Sequence[Vote], fraction: float, *, labelled: Container[int] = ()
) -> list[int]:
    """Return the groups of an oversampled step to train on.

    Groups with a true label come first, then the groups of highest agreement.

    Args:
        votes: Vote of each group.
        fraction: Fraction to keep, above 0 and at most 1; at least one group is kept.
        labelled: Indices of the groups with a true label.

    Returns:
        Indices in ascending order. At equal agreement, the earlier group is kept.

    Raises:
        UsageError: If the fraction is out of range.
    """
    if not 0.0 < fraction <= 1.0:
        raise UsageError(
            f"keep_most_agreed: fraction must be above 0 and at most 1, got {fraction}"
        )
    ranked = sorted(
        range(len(votes)), key=lambda index: (index not in labelled, -votes[index].agreement)
    )
    return sorted(ranked[: max(1, round(fraction * len(votes)))])


def choose_labelled(
    task_ids: Iterable[str], *, share: float, budget: int | None = None, seed: int = 0
) -> frozenset[str]:
    """Return the tasks that keep their true label.

    Selection by a hash of seed and id is the same in every process and order, and independent of
    the other tasks until the budget is reached.

    Args:
        task_ids: Ids of all tasks.
        share: Fraction of labelled tasks, from 0 to 1. It is met on average.
        budget: Maximum number of labelled tasks (the lowest hashes); `None` for no limit.
        seed: Seed of the hash.

    Raises:
        UsageError: If `share` or `budget` is out of range.
    """
    if not 0.0 <= share <= 1.0 or (budget is not None and budget < 0):
        raise UsageError(
            f"choose_labelled: share must be from 0 to 1 and budget at least 0, "
            f"got {share} and {budget}"
        )
    ranks = {task_id: stable_seed(seed, "true label", task_id) / 2**31 for task_id in task_ids}
    chosen = sorted((rank, task_id) for task_id, rank in ranks.items() if rank < share)
    return frozenset(task_id for _, task_id in chosen[:budget])


@dataclass(frozen=True, slots=True)
class VotedGroup:
    """Rollouts of one task after their vote, for metrics."""

    texts: Sequence[str]
    vote: Vote
    rewards: Sequence[float | None]
    """Rewards from the vote or from a true label."""
    truth: str | None = None
    """True answer if it is available for metrics; the vote does not use it."""
    reading: Reading = value_of


def vote_metrics(groups: Sequence[VotedGroup]) -> dict[str, float]:
    """Return the metrics of a step's votes, each a mean from 0 to 1; undefined ones are omitted.

    All groups: `parsed` (texts with an answer), `majority_ratio` (agreement), `labelled` (groups
    with a label), `majority_voting_reward` (mean reward of the rollouts with a label).
    Groups with a truth: `ground_truth_ratio` (right rollouts), `pass@n` (groups with a right
    rollout), `labelled_right` (groups whose label is true), `pass_rate/...` (groups by their
    fraction of right rollouts). If such a group has a label: `label_accuracy`. If it has rewards:
    `reward_accuracy` (rewards that equal the true ones; for soft rewards, 1 minus the mean
    distance).

    References:
        Training logs of TTRL and SRT.

    Raises:
        UsageError: If there are no groups.
    """
    if not groups:
        raise UsageError("vote_metrics needs at least one group")
    rewards = [reward for group in groups for reward in group.rewards if reward is not None]
    found: dict[str, list[float]] = {
        "parsed": [group.vote.parsable for group in groups],
        "majority_ratio": [group.vote.agreement for group in groups],
        "labelled": [float(group.vote.label is not None) for group in groups],
        "majority_voting_reward": rewards,
    }
    for group in groups:
        for name, value in _against_truth(group).items():
            found.setdefault(name, []).append(value)
    return {name: statistics.fmean(values) for name, values in found.items() if values}


BANDS = ("0", "1-25", "26-50", "51-75", "76-99", "100")
"""Bands of the percentage of right rollouts in a group."""


def _against_truth(group: VotedGroup) -> dict[str, float]:
    if group.truth is None:
        return {}
    right = label_rewards(group.texts, group.truth, reading=group.reading)
    rate = statistics.fmean(right)
    label = group.vote.label
    hit = float(label is not None and group.reading(label) == group.reading(group.truth))
    told = {"ground_truth_ratio": rate, "pass@n": float(rate > 0), "labelled_right": hit}
    told |= {f"pass_rate/{band}": float(band == _band(rate)) for band in BANDS}
    if label is not None:
        told["label_accuracy"] = hit
    gaps = [
        abs(reward - true)
        for reward, true in zip(group.rewards, right, strict=True)
        if reward is not None
    ]
    return told | ({"reward_accuracy": 1 - statistics.fmean(gaps)} if gaps else {})


def _band(rate: float) -> str:
    return BANDS[-1] if rate == 1 else BANDS[math.ceil(4 * rate)]
