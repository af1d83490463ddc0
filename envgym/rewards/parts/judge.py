"""Rewards from the opinion of another model, over any OpenAI-compatible server. Not grounded: weigh them below what is.

    tone:
      from: judge
      weight: 0.2
      options: {url: "http://localhost:8000/v1", model: NAME, rubric: "10: polite and short. 0: rude.", cache: judge.jsonl}

A judgement that could not be had is None, so it counts for nothing; `envgym.rewards.scoring.llm_judge.statistics()` says how many, and why.
"""

from __future__ import annotations

from collections.abc import Sequence

from envgym.episode import Episode
from envgym.rewards.rubric import Evidence, declares
from envgym.rewards.scoring.llm_judge import open_judge, rank_group, rank_texts, score_text
from envgym.tasks import Task, stable_seed


@declares(grounded=False)
def judge(
    evidence: Evidence,
    *,
    url: str,
    model: str,
    rubric: str,
    max_calls: int = 1000,
    timeout_seconds: float = 30.0,
    cache: str | None = None,
) -> float | None:
    """What a judge thinks of the final message, from 0.0 to 1.0; None where there is no judgement.

    Args:
        url, model, max_calls, timeout_seconds, cache: as of `JudgeServer`; parts with the same ones share a budget.
        rubric: what is good and what is bad, in words.
    """
    server = open_judge(
        url, model, max_calls=max_calls, timeout_seconds=timeout_seconds, cache=cache
    )
    return score_text(server, evidence.final, request=evidence.task.prompt, rubric=rubric)


@declares(grounded=False, of_group=True)
def judge_group(
    task: Task,
    episodes: Sequence[Episode],
    *,
    url: str,
    model: str,
    rubric: str,
    max_calls: int = 1000,
    timeout_seconds: float = 30.0,
    cache: str | None = None,
) -> list[float | None]:
    """How each episode's last message ranks among its siblings: 1.0 for the best, 0.0 for the worst; two calls a group.

    Args: as of `judge`.
    Returns: one score an episode; None for a void one, and for all where there is no judgement or nothing to compare.
    """
    server = open_judge(
        url, model, max_calls=max_calls, timeout_seconds=timeout_seconds, cache=cache
    )
    texts = [episode.last_said for episode in episodes if not episode.void]
    scores = iter(
        rank_group(
            texts,
            lambda shown: rank_texts(server, shown, request=task.prompt, rubric=rubric),
            seed=stable_seed(task.id, *sorted(texts)),
        )
    )
    return [None if episode.void else next(scores) for episode in episodes]
