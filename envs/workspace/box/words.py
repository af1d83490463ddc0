"""Random pronounceable words for names and notes, different in every folder."""

from __future__ import annotations

import random

STARTS = (
    "b",
    "br",
    "d",
    "dr",
    "f",
    "g",
    "gr",
    "k",
    "l",
    "m",
    "n",
    "p",
    "pl",
    "r",
    "s",
    "st",
    "t",
    "tr",
    "v",
    "z",
)
VOWELS = ("a", "e", "i", "o", "u", "ai", "ea", "io", "ou")
ENDS = ("", "l", "m", "n", "nd", "r", "rk", "s", "st", "t")


def word(rng: random.Random) -> str:
    """Draw a word of two or three syllables, such as `ploumast`; it is never a shell command."""
    middle = "".join(rng.choice(STARTS) + rng.choice(VOWELS) for _ in range(rng.randint(1, 2)))
    return f"{middle}{rng.choice(STARTS)}{rng.choice(VOWELS)}{rng.choice(ENDS)}"


def fresh(rng: random.Random, count: int, prefix: str = "") -> list[str]:
    """Draw `count` different words in random order."""
    found: dict[str, None] = {}
    while len(found) < count:
        found[f"{prefix}-{word(rng)}" if prefix else word(rng)] = None
    return list(found)


def name(rng: random.Random) -> str:
    return f"{word(rng).capitalize()} {word(rng).capitalize()}"
