"""Metrics of wall time and speed of a step."""

from __future__ import annotations

import time
from collections.abc import Sequence

from envgym.episode import Episode


def speed(episodes: Sequence[Episode], start: float) -> dict[str, float]:
    """Return sampled or demonstrated tokens a second of the whole step."""
    tokens = sum(sum(episode.tokens.loss_mask) for episode in episodes if episode.tokens)
    return {
        "throughput/tokens_per_second": tokens / (time.perf_counter() - start),
        "time/step": time.perf_counter() - start,
    }


def time_split(episodes: Sequence[Episode], start: float, sampled: float) -> dict[str, float]:
    """Return the wall time of a step's phases in seconds.

    `time/env` is the rollout time times the fraction that episodes spent in the environment.
    """
    waiting, working = (
        sum(e.seconds.get(place, 0.0) for e in episodes) for place in ("policy", "env")
    )
    rollout = sampled - start
    env_share = working / max(waiting + working, 1e-9)
    return {
        "time/generate": rollout * (1 - env_share),
        "time/env": rollout * env_share,
        "time/train": time.perf_counter() - sampled,
    }
