"""Rewards for boxed answers: against the true answer, or against the group's majority vote."""

from __future__ import annotations

from collections.abc import Sequence

from envgym.dialects import without_reasoning
from envgym.episode import Episode
from envgym.errors import SpecError
from envgym.rewards.evidence import Evidence
from envgym.rewards.rubric import reward_part
from envgym.rewards.scoring.answer_normalization import Reading, find_reading
from envgym.rewards.scoring.majority_vote import Divisor, Spelling, label_rewards, vote_rewards
from envgym.tasks import Task


def boxed_right(evidence: Evidence, *, lax: bool = False) -> float | None:
    r"""Return 1.0 if the last `\boxed{}` of the last message equals the task's answer.

    Reasoning up to `</think>` does not count. The truth is `extra["answer"]`. `extra["reading"]`
    selects the normalization that decides equality: `value` (default), `claims` or `raw`.

    Args:
        lax: If the message has no box, use its last number.

    Returns:
        1.0 or 0.0, or `None` if the task has no answer.

    Raises:
        SpecError: If the true answer is not a text.
        UsageError: If the normalization is unknown.
    """
    truth = evidence.task.extra.get("answer")
    if truth is None:
        return None
    if not isinstance(truth, str):
        raise SpecError(
            f"task '{evidence.task.id}': extra['answer'] must be a string, got {truth!r}"
        )
    text = (
        evidence.assistant_messages[-1] if evidence.assistant_messages else evidence.final_message
    )
    answer = without_reasoning(text)
    return label_rewards([answer], truth, reading=_reading(evidence.task), lax=lax)[0]


@reward_part(of_group=True, grounded=False)
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
    """Return 1.0 for each episode of a group whose boxed answer is the majority's.

    See `vote_rewards` for the other options.

    Args:
        voters: Messages that vote, such as a teacher's. Default: the last messages of the episodes.

    Returns:
        1.0 or 0.0 for each episode. Void episodes do not vote and get `None`. If the vote yields no
        label, all episodes get `None`.
    """
    valid = [index for index, episode in enumerate(episodes) if not episode.is_void]
    rewards: list[float | None] = [None] * len(episodes)
    if not valid:
        return rewards
    given = vote_rewards(
        [without_reasoning(episodes[index].last_assistant_message) for index in valid],
        voters=None if voters is None else [without_reasoning(text) for text in voters],
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
