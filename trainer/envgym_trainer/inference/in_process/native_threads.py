"""Two settings of the C libraries below torch, for a process in which sampler and learner compute in turn, on two threads.

GNU's OpenMP gives each thread that computes a team of workers of its own. It lets workers wait awake for the next operation,
which is what makes a thousand small ones a token worth cutting, only while all teams together are no more than the cores; and
a team counts even when its thread has long turned to other things. So sampler and learner each dismiss their team when they are
done. Else a pass that decodes 16 rows on 2 cores takes half as long again.

GNU's malloc gives threads heaps of their own, and what the sampler's thread has freed the learner's cannot have: a fourth of a
small step's peak. One heap is as fast here, since large tensors are few.

Elsewhere than on Linux with these libraries nothing happens.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from pathlib import Path

PAUSE_SOFT = 1
"""Settings stay. Source: OpenMP 5.0, sec. 3.2.43."""
ARENA_MAX = -8
"""M_ARENA_MAX. Source: mallopt(3)."""


def dismiss_team() -> None:
    """Ends the calling thread's idle OpenMP workers; its next parallel operation starts new ones."""
    if pause := _function("libgomp", "omp_pause_resource_all"):
        pause(PAUSE_SOFT)


def one_heap() -> None:
    """Lets threads that are started from now on allocate where the first one does."""
    if mallopt := _function("libc.so", "mallopt"):
        mallopt(ARENA_MAX, 1)


@functools.cache
def _function(library: str, name: str) -> Callable[..., int] | None:
    """A function of the one loaded library whose file is called so; None where there is none."""
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
