"""Thread and memory settings of OpenMP and malloc for a process that samples and trains in turn.

GNU OpenMP creates a team of workers for each thread that computes. Workers busy-wait between
operations only if the number of workers in all teams is at most the number of cores. Idle teams
count, so sampler and learner release their teams when they finish. Otherwise decoding 16 rows on 2
cores takes 1.5 times as long. GNU malloc has one arena per thread, so memory that the sampler freed
cannot be reused by the learner (a quarter of the peak of a small step). One arena is as fast, since
large tensors are few. If these libraries are not loaded, the functions have no effect.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from pathlib import Path

PAUSE_SOFT = 1
"""Keep the settings of OpenMP. Source: OpenMP 5.0, sec. 3.2.43."""
ARENA_MAX = -8
"""M_ARENA_MAX. Source: mallopt(3)."""


def release_openmp_threads() -> None:
    """Release the calling thread's idle OpenMP workers.

    The next parallel operation starts new ones.
    """
    if pause := _function("libgomp", "omp_pause_resource_all"):
        pause(PAUSE_SOFT)


def use_single_malloc_arena() -> None:
    """Use a single malloc arena for all threads that start after this call."""
    if mallopt := _function("libc.so", "mallopt"):
        mallopt(ARENA_MAX, 1)


@functools.cache
def _function(library: str, name: str) -> Callable[..., int] | None:
    """Return a function of the loaded library with this file name, or None if it is not loaded."""
    try:
        mapped = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return None
    found = {
        path
        for line in mapped
        if (path := line.split(maxsplit=5)[-1]).rpartition("/")[2].startswith(library)
    }
    return getattr(ctypes.CDLL(found.pop()), name, None) if len(found) == 1 else None
