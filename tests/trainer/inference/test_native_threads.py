"""Thread settings of the C libraries below torch, which hold for a whole process.

Each test therefore runs a process of its own.
"""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="NOT TESTED: GNU's OpenMP and malloc are Linux's"
)

TEAMS = """
import os, torch
from envgym_trainer.inference.in_process.native_threads import release_openmp_threads
torch.set_num_threads(3)
x = torch.randn(400, 400)
count = lambda: len(os.listdir("/proc/self/task"))
(x @ x).sum()
busy = count()
release_openmp_threads()
dismissed, expected = count(), x @ x
print(busy - dismissed, torch.equal(expected, x @ x), count() - dismissed)
"""

HEAPS = """
import ctypes, threading
from envgym_trainer.inference.in_process.native_threads import use_single_malloc_arena
{setting}
libc, where = ctypes.CDLL(None), []
libc.malloc.restype = ctypes.c_void_p
take = lambda: where.append(libc.malloc(1000))
take()
thread = threading.Thread(target=take)
thread.start()
thread.join()
print(abs(where[0] - where[1]) < 2**30)
"""


def output_of(program: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_a_dismissed_teams_workers_end_and_the_next_operation_has_new_ones():
    assert output_of(TEAMS) == "2 True 2"


def test_threads_allocate_in_heaps_of_their_own_until_they_are_told_otherwise():
    assert output_of(HEAPS.format(setting="")) == "False"
    assert output_of(HEAPS.format(setting="use_single_malloc_arena()")) == "True"
