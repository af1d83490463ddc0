"""Self-training by majority vote: a group's own answers make the label that its answers are rewarded by.

    vote            answers -> Vote: the label, how far they agree, whether it was a tie
    text_vote       the same of texts, whose answers stand in boxes
    vote_rewards    texts -> 1 for an answer equal to the label, 0 for another one, None where there is no label
    vote_metrics    what to log, of votes whose truth is known and of those whose truth is not

A vote knows nothing of the truth: whoever answers the same everywhere earns 1.0. So it is meant for a bounded budget, with some
true labels mixed in (`choose_labelled`), the most agreed groups kept (`keep_most_agreed`), and `HackWatch` looking on.
Source: SRT, arXiv 2505.21444; TTRL, arXiv 2504.16084.
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
"""What is one vote: answers of equal meaning, or equal strings as in the reference."""
Divisor = Literal["rollouts", "parsable"]
"""What the agreement is a share of: all texts, or those with an answer."""


@dataclass(frozen=True, slots=True)
class Vote:
    """What a group agreed on."""

    label: str | None
    """The winning answer as it was first written; None where nobody answered, or fewer agreed than the threshold asks for."""
    agreement: float
    """Share of the winning answer, from 0 to 1; 0 where nobody answered."""
    counts: dict[str, int]
    """Answer as first written -> its votes, in the order in which the answers were first seen."""
    parsable: float
    """Share of the texts that hold an answer."""
    tie: bool
    """Whether another answer had as many votes; the one seen first has won."""


def vote(
    answers: Sequence[str | None],
    *,
    reading: Reading = value_of,
    threshold: float = 0.0,
    divide_by: Divisor = "rollouts",
) -> Vote:
    """Counts the answers of one group.

    Args:
        answers: one a rollout; None, and an answer of nothing but white space, is no vote.
        reading: what counts as the same answer; `raw` for strings to the letter.
        threshold: an agreement below it gives no label.
        divide_by: see `Divisor`; `parsable` is the first published form, `rollouts` that of its Reasoning Gym branch.
    Raises: UsageError for no rollout, a threshold outside 0..1, an unknown divisor.
    """
    if not answers or not 0.0 <= threshold <= 1.0:
        raise UsageError(
            f"a vote needs at least one rollout and a threshold of 0 to 1, got {len(answers)} and {threshold}"
        )
    _check("divide_by", divide_by, get_args(Divisor))
    given = [answer for answer in answers if answer is not None and answer.strip()]
    written: dict[Hashable, str] = {}
    for answer in given:
        written.setdefault(reading(answer), answer)
    votes = Counter(written[reading(answer)] for answer in given)
    if not votes:
        return Vote(None, 0.0, {}, 0.0, tie=False)
    (label, most), *others = votes.most_common(
        2
    )  # in the order of first sight where votes are equal
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
    """`vote` of the answers that stand in the texts' last boxes. Options, and what is raised, as of `vote_rewards`."""
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
    """The reward of each rollout of one task by the label that was voted for; None for all of them where there is no label.

    Args:
        texts: what the rollouts said; the answer stands in the last box.
        voters: whose texts vote, such as those of a frozen or averaged teacher; by default the rollouts' own.
        votes: `raw` counts strings to the letter; whether a rollout meets the label is decided by `reading` all the same.
        soft: the reward is the share of the voters who gave this answer, instead of 1 or 0.
        lax: a rollout without a box is judged by its last number, though it does not vote (the reference's verifier).
    Raises: UsageError for no text, no voter, an unknown option.
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
    """1.0 for each text whose answer means the same as the label, else 0.0; the label is a true one, or one that was voted for."""
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
    """Options come from a YAML, where a misspelt one must not be taken for the default."""
    if value not in options:
        raise UsageError(
            f"{name} is {value!r}{did_you_mean(value, options)}; available: {', '.join(options)}"
        )


def pooled_rewards(prompts: Sequence[str], texts: Sequence[str], **options) -> list[float | None]:
    """`vote_rewards` of a whole batch, in which all rollouts of one and the same prompt text are one vote.

    Args:
        prompts, texts: one a rollout.
        options: as of `vote_rewards`.
    Raises: ValueError where there are not as many of both; UsageError as `vote_rewards`.
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
    """Which groups of an oversampled step to train on: those with a true label first, then those that agree most.

    Args:
        fraction: share that is kept, above 0 and up to 1; at least one group is.
        labelled: indices of the groups with a true label.
    Returns: indices in rising order; of equal agreement, the earlier group is kept.
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
    """Which tasks get their true label.

    By a hash of seed and id: the same in every process and order, whatever other tasks there are, until the budget binds.

    Args:
        share: of the tasks that are labelled, from 0 to 1; each by its own hash, so that it is met on average.
        budget: at most so many (those of lowest hash); None for no limit.
    """
    if not 0.0 <= share <= 1.0 or (budget is not None and budget < 0):
        raise UsageError(
            f"choose_labelled: share must be 0 to 1 and budget at least 0, got {share} and {budget}"
        )
    ranks = {task_id: stable_seed(seed, "true label", task_id) / 2**31 for task_id in task_ids}
    chosen = sorted((rank, task_id) for task_id, rank in ranks.items() if rank < share)
    return frozenset(task_id for _, task_id in chosen[:budget])


@dataclass(frozen=True, slots=True)
class VotedGroup:
    """One task's rollouts after their vote, for the log."""

    texts: Sequence[str]
    vote: Vote
    rewards: Sequence[float | None]
    """What they were given, by the vote or by a true label."""
    truth: str | None = None
    """The true answer, where it is known (to whoever measures, not to the vote)."""
    reading: Reading = value_of


def vote_metrics(groups: Sequence[VotedGroup]) -> dict[str, float]:
    """What to log of a step's votes, each a mean from 0 to 1. What cannot be told is left out: without a truth, all of that half.

    Of every group: `parsed` (texts with an answer), `majority_ratio` (agreement), `labelled` (groups that got a label), and
    `majority_voting_reward` (mean reward of the rollouts that have one).
    Of groups with a truth: `ground_truth_ratio` (rollouts that are right), `pass@n` (groups with a right one),
    `labelled_right` (groups whose label is the truth), and `pass_rate/...` (share of the groups in each band of rollouts right).
    Of those among them that got a label, `label_accuracy`; of those with rewards, `reward_accuracy` (how many are the true ones;
    1 minus the mean distance where rewards are soft).
    Source: the metrics of TTRL's and SRT's training logs.
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
"""Percent of a group's rollouts that are right."""


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
