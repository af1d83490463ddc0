"""Rewards of tasks whose answer stands in a box: against the truth, and against what the group itself agrees on."""

from __future__ import annotations

from collections.abc import Sequence

from envgym.episode import Episode
from envgym.errors import SpecError
from envgym.rewards.rubric import Evidence, declares
from envgym.rewards.scoring.answer_normalization import Reading, find_reading
from envgym.rewards.scoring.majority_vote import Divisor, Spelling, label_rewards, vote_rewards
from envgym.tasks import Task


def boxed_right(evidence: Evidence, *, lax: bool = False) -> float | None:
    r"""1.0 when the last `\boxed{}` of the last message means the task's `extra["answer"]`, else 0.0; None for a task without one.

    What means the same is decided by the reading that `extra["reading"]` names: `value` (default), `claims` or `raw`.

    Args:
        lax: without a box, the last number of the message counts.
    Raises: SpecError for an answer that is no text; UsageError for an unknown reading.
    """
    truth = evidence.task.extra.get("answer")
    if truth is None:
        return None
    if not isinstance(truth, str):
        raise SpecError(
            f"task '{evidence.task.id}': extra['answer'] must be a string, got {truth!r}"
        )
    text = evidence.said[-1] if evidence.said else evidence.final
    return label_rewards([text], truth, reading=_reading(evidence.task), lax=lax)[0]


@declares(of_group=True, grounded=False)
def majority_vote(
    task: Task,
    episodes: Sequence[Episode],
    *,
    voters: Sequence[str] | None = None,
    votes: Spelling = "equivalent",
    threshold: float = 0.0,
    soft: bool = False,
    divide_by: Divisor = "rollouts",
    lax: bool = False,
) -> list[float | None]:
    r"""A part of a whole group: 1.0 for each episode whose boxed answer is the one that most of the group gave, else 0.0.

    None for void episodes, which do not vote either, and for all where there is no label. Options as of `vote_rewards`, but:

    Args:
        voters: messages whose answers are counted, such as a teacher's; by default the episodes' own.
    """
    valid = [index for index, episode in enumerate(episodes) if not episode.void]
    rewards: list[float | None] = [None] * len(episodes)
    if not valid:
        return rewards
    given = vote_rewards(
        [episodes[index].last_said for index in valid],
        voters=voters,
        votes=votes,
        reading=_reading(task),
        threshold=threshold,
        soft=soft,
        divide_by=divide_by,
        lax=lax,
    )
    for index, reward in zip(valid, given, strict=True):
        rewards[index] = reward
    return rewards


def _reading(task: Task) -> Reading:
    return find_reading(task.extra.get("reading", "value"))
