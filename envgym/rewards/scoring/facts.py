"""Whether a text tells facts: numbers by value, other facts as whole words.

A fact that is a number is told by any spelling of the same amount (`1,000`, `1000.00`, `$1,000`).
A fact of words and numbers, such as `25 days`, is told by the same tokens in a row. Any other fact,
such as a name, an id or a date, is told by its text, without regard to case and white space.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from envgym.rewards.scoring.numbers_in_text import (
    Quantity,
    Reading,
    Token,
    is_unspaced,
    plain,
    read,
)

MAX_WORDS = 60
"""Default limit of a message in words."""
MAX_CANDIDATES = 15
"""Default limit of different numbers and codes in a message."""
MAX_CHARACTERS = 20_000
"""Maximum length of a message. A longer one tells nothing."""


def fraction_told(
    text: str,
    facts: Sequence[str],
    *,
    max_words: int = MAX_WORDS,
    max_candidates: int = MAX_CANDIDATES,
) -> float:
    """Return the fraction of the facts that a text tells.

    Args:
        text: Message of the model.
        facts: At least one fact.
        max_words: Maximum number of words. A longer text tells nothing, so that listing all
            candidates does not pay. Members of lists without spaces are words.
        max_candidates: Maximum number of different numbers and codes, such as C17. A text with more
            tells no fact that has a digit.
    """
    if len(text) > MAX_CHARACTERS:
        return 0.0
    reading = read(text)
    if reading.words > max_words:
        return 0.0
    has_list = candidates(reading) > max(max_candidates, 2 * len(facts))
    expected = {token for fact in facts for token in read(fact).quantities}
    quantities = [
        *reading.quantities,
        *(number for pair in reading.pairs if expected.issuperset(pair) for number in pair),
    ]
    told = [
        not (has_list and any(map(str.isdigit, fact))) and _tells(text, reading, quantities, fact)
        for fact in facts
    ]
    return sum(told) / len(told)


def count_words(text: str) -> int:
    """Return the length of a text in words, as `fraction_told` counts it."""
    return read(text).words


def count_candidates(text: str) -> int:
    """Return the number of different numbers and codes of a text."""
    return candidates(read(text))


def candidates(reading: Reading) -> int:
    codes = {
        token for token in reading.tokens if isinstance(token, str) and any(map(str.isdigit, token))
    }
    return len(codes) + len({quantity.value for quantity in reading.quantities})


def _tells(text: str, reading: Reading, quantities: list[Quantity], fact: str) -> bool:
    tokens = read(fact).tokens
    if len(tokens) == 1 and isinstance(tokens[0], Quantity):
        return any(quantity.tells(tokens[0]) for quantity in quantities)
    if any(isinstance(token, Quantity) for token in tokens):
        size = len(tokens)
        return any(
            _fit(reading.tokens[start : start + size], tokens)
            for start in range(len(reading.tokens) - size + 1)
        )
    return _is_in(fact, text)


def _fit(said: list[Token], wanted: list[Token]) -> bool:
    return all(
        one.tells(other)
        if isinstance(one, Quantity) and isinstance(other, Quantity)
        else one == other
        for one, other in zip(said, wanted, strict=True)
    )


def _is_in(fact: str, text: str) -> bool:
    """Return whether a text contains a fact as whole words. A part of a longer code is none."""
    fact, text = (" ".join(plain(each).split()) for each in (fact, text))
    if not fact:
        return False
    before = "" if is_unspaced(fact[0]) else r"(?<!\w)"
    after = "" if is_unspaced(fact[-1]) else r"(?!\w)"
    if any(map(str.isdigit, fact)):
        before += r"(?<!\w[._@])" + (r"(?<!\d[:/,])" if fact[0].isdigit() else "")
        after += r"(?![.:_@]\w)(?!/\d)"
        if ":" not in fact:  # a time may be the end of a range, as in 10:30-11:00
            before += r"(?<!\w-)" + (r"(?<![-+])" if fact[0].isdigit() else "")
            # A longer word after a hyphen is no part of a code, as in "D12-related".
            after += r"(?!-(?![^\W\d_]{3})\w)"
    return re.search(before + re.escape(fact) + after, text) is not None
