"""Playing so that nothing depends on who was faster: the same episodes give the same bits, on a CPU.

A logit's last bits depend on who else is in its batch, and that depends on how fast threads and tools were. In step, the
sampler begins a forward pass only when every episode in flight waits for it, in an order of their own. So a batch is a function
of the episodes alone. The price is the barrier: at each turn all wait for the slowest tool.
Not covered: another machine, another number of threads, another version of torch; tools whose answers depend on the clock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import gymnasium
import torch

from envgym.episode import Episode
from envgym.failures import FailureCap
from envgym.play import Request, play_many
from envgym.policies import Policy
from envgym_trainer.inference.in_process.engine import Engine


def play_in_step(
    engine: Engine,
    make_env: Callable[[], gymnasium.Env],
    policy: Policy,
    requests: Sequence[Request],
    *,
    workers: int,
    on_episode: Callable[[Episode], None] = lambda episode: None,
    cap: FailureCap | None = None,
) -> list[Episode]:
    """`play_many` in waves of at most `workers` episodes, each wave in step on a deterministic engine.

    Returns: the episodes in the order of the requests. Raises: what `play_many` raises.
    """
    episodes: list[Episode] = []
    for start in range(0, len(requests), workers):
        wave = requests[start : start + workers]
        engine.in_flight(len(wave))
        episodes += play_many(
            make_env,
            policy,
            wave,
            workers=workers,
            on_episode=on_episode,
            on_done=lambda: engine.in_flight(-1),
            cap=cap,
        )
    return episodes


@contextmanager
def exact_kernels(wanted: bool) -> Iterator[None]:
    """While in the block torch adds in a fixed order where it has a choice (a large indexed sum on a CPU has one)."""
    before = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    if wanted:
        torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn_only)
