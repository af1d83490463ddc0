"""Printed explanations, for the tests of `envgym explain`."""

import io

from rich.console import Console

from envgym_trainer.commands.explain import print_episode, print_overview
from envgym_trainer.run.explain import Explanation

MORE = """
def turn(evidence):
    '''1.0 for every turn.'''
    return 1.0
"""
MIXED = [
    "reward.words={from: parts.py:words, weight: 0.05, scale: running}",
    (
        "reward.long={from: parts.py:longest, weight: {0: 0.5, 2: 1.5}, "
        "range: [-1, 1], grounded: false}"
    ),
    "reward.turn={from: parts.py:turn, weight: 0.1, per: turn}",
    "reward.polite={from: parts.py:words, gate: solved, clip: [0, 2]}",
]


def printed(explained):
    console = Console(file=io.StringIO(), width=160)
    if isinstance(explained, Explanation):
        print_episode(explained, console=console)
    else:
        print_overview(explained, console=console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def cells(text):
    """Return the words of each line by its first word: name -> cells of a table."""
    return {row[0]: row for line in text.splitlines() if (row := line.split())}


def recorded(folder, name):
    return folder.find_episodes([name])[name]
