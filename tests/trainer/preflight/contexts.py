"""Preflight contexts of small environments."""

from contextlib import contextmanager

from envgym_trainer.preflight import (
    open_preflight,
)
from envgym_trainer.training.launch import resolve

TINY = [
    "train.model=tiny",
    "train.model.device=cpu",
    "train.warm_start.episodes=4",
    "train.rollout.max_concurrent_episodes=16",
    "train.rollout.group_size=2",
]


@contextmanager
def opened(env, *settings):
    spec, config, _ = resolve(str(env), [*TINY, *settings])
    with open_preflight(spec, config, is_full=False, notify=lambda text: None) as subject:
        yield subject
