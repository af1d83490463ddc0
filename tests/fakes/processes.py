"""The command line as a process of its own, for tests that send it signals or read what it says."""

import os
import subprocess
import sys


def train_guess(*words: object) -> subprocess.Popen[str]:
    """`envgym train guess ...`, with all it says on one wide stdout."""
    command = [sys.executable, "-m", "envgym", "train", "guess", *map(str, words)]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"COLUMNS": "300"},
    )
