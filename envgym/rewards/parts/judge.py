"""Rewards from the opinion of another model, over any OpenAI-compatible server.

    tone:
      from: judge
      weight: 0.2
      options: {url: "http://localhost:8000/v1", model: NAME, rubric: "10: polite. 0: rude."}

These parts are not grounded: give them a lower weight than parts that read the state. If there is
no judgement, the part does not apply; `Rubric.judges.statistics()` counts the reasons.
"""

from __future__ import annotations

from collections.abc import Sequence

from envgym.episode import Episode
from envgym.rewards.evidence import Evidence
from envgym.rewards.rubric import reward_part
from envgym.rewards.scoring.llm_judge import Judges, rank_group, rank_texts, score_text
from envgym.tasks import Task, stable_seed


@reward_part(grounded=False, uses_judges=True)
def judge(
    evidence: Evidence,
    *,
    judges: Judges,
    url: str,
    model: str,
    rubric: str,
    max_calls: int = 1000,
    timeout_seconds: float = 30.0,
    cache: str | None = None,
    key: str | None = None,
) -> float | None:
    """Return a judge's score of the final message, from 0.0 to 1.0, or None without a judgement.

    Args:
        evidence: The evidence of one episode.
        judges: The judges of the world. Parts with equal options below share a budget and a cache.
        url: URL of the server.
        model: Name of the judging model.
        rubric: Description of good and bad messages.
        max_calls: Maximum number of requests. See `JudgeServer`.
        timeout_seconds: Time limit of one request in seconds.
        cache: JSONL file that keeps judgements between runs.
        key: API key of the server, such as `env:NAME`. No other key is sent.
    """
    server = judges.open(
        url, model, max_calls=max_calls, timeout_seconds=timeout_seconds, cache=cache, key=key
    )
    return score_text(server, evidence.final_message, request=evidence.task.prompt, rubric=rubric)


@reward_part(grounded=False, of_group=True, uses_judges=True)
def judge_group(
    task: Task,
    episodes: Sequence[Episode],
    *,
    judges: Judges,
    url: str,
    model: str,
    rubric: str,
    max_calls: int = 1000,
    timeout_seconds: float = 30.0,
    cache: str | None = None,
    key: str | None = None,
) -> list[float | None]:
    """Return the rank of each episode's last message in its group, from 1.0 (best) to 0.0 (worst).

    A group takes two requests.

    Args:
        task: The task of the group.
        episodes: The episodes of the group.
        judges: The judges of the world. Parts with equal options below share a budget and a cache.
        url: URL of the server.
        model: Name of the judging model.
        rubric: Description of good and bad messages.
        max_calls: Maximum number of requests. See `JudgeServer`.
        timeout_seconds: Time limit of one request in seconds.
        cache: JSONL file that keeps judgements between runs.
        key: API key of the server, such as `env:NAME`. No other key is sent.

    Returns:
        One score per episode. None for a void episode, and for all episodes if there is no
        judgement, or fewer than two messages differ.
    """
    server = judges.open(
        url, model, max_calls=max_calls, timeout_seconds=timeout_seconds, cache=cache, key=key
    )

    def rank(shown: list[str]) -> list[int] | None:
        return rank_texts(server, shown, request=task.prompt, rubric=rubric)

    texts = [episode.last_assistant_message for episode in episodes if not episode.is_void]
    scores = iter(rank_group(texts, rank, seed=stable_seed(task.id, *sorted(texts))))
    return [None if episode.is_void else next(scores) for episode in episodes]
