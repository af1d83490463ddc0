"""Reproducible sampling on a CPU: the same episodes give the same bits, regardless of timing.

The last bits of a logit depend on the other rows of its batch, and batches normally depend on the
speed of threads and tools. In lockstep, a forward pass starts only when all running episodes wait
for it, with rows in a fixed order. The cost is that all episodes wait for the slowest tool at each
turn. Not covered: other machines, thread counts or versions of torch, and tools that depend on the
clock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import gymnasium
import torch

from envgym.episode import Episode
from envgym.failures import FailureLimit
from envgym.playing import Request, play_many
from envgym.policies import Policy
from envgym_trainer.inference import Engine


def play_in_step(
    engine: Engine,
    make_env: Callable[[], gymnasium.Env],
    policy: Policy,
    requests: Sequence[Request],
    *,
    workers: int,
    on_episode: Callable[[Episode], None] = lambda episode: None,
    cap: FailureLimit | None = None,
) -> list[Episode]:
    """Play requests in waves of at most `workers` episodes, each in lockstep.

    The engine must support lockstep. Other arguments are the same as in `play_many`.

    Returns:
        Episodes in the order of the requests.

    Raises:
        TooManyFailures: See `play_many`.
    """
    episodes: list[Episode] = []
    for start in range(0, len(requests), workers):
        wave = requests[start : start + workers]
        engine.add_in_flight(len(wave))
        episodes += play_many(
            make_env,
            policy,
            wave,
            workers=workers,
            on_episode=on_episode,
            on_done=lambda: engine.add_in_flight(-1),
            cap=cap,
        )
    return episodes


@contextmanager
def exact_kernels(wanted: bool) -> Iterator[None]:
    """Use deterministic kernels while in the block. A large indexed sum on a CPU needs this."""
    before = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    if wanted:
        torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn_only)
