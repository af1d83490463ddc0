"""The command line as a subprocess, for tests that send signals or read its output."""

import os
import subprocess
import sys


def train_guess(*words: object) -> subprocess.Popen[str]:
    """Start `envgym train guess ...` with all output on one wide stdout."""
    command = [sys.executable, "-m", "envgym", "train", "guess", *map(str, words)]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"COLUMNS": "300"},
    )
