"""Statistics of answers that show reward hacking: the share of one answer, and repetition.

Used as inputs of `hacking_signals`.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Hashable, Sequence

from envgym.rewards.scoring.answer_normalization import Reading, value_of


def modal_share(
    groups: Sequence[Sequence[str | None]], *, reading: Reading = value_of
) -> float | None:
    """Return the frequency of the most frequent answer across tasks, each task weighted equally.

    Rollouts without an answer are excluded.

    Args:
        groups: Answers of each task's rollouts.
        reading: Normalizer that decides which answers are the same.

    Returns:
        Fraction above 0 and at most 1, or `None` if fewer than two tasks have an answer.
    """
    given = [
        [reading(answer) for answer in group if answer is not None and answer.strip()]
        for group in groups
    ]
    spoken = [group for group in given if group]
    if len(spoken) < 2:
        return None
    total: defaultdict[Hashable, float] = defaultdict(float)
    for group in spoken:
        for answer in group:
            total[answer] += 1 / len(group)
    return max(total.values()) / len(spoken)


def repetition(text: str, *, n: int = 4) -> float | None:
    """Return the fraction of a text's n-grams that occurred in it before.

    Words are cut into pieces of at most 8 letters and other characters are single tokens, so that
    `aaaa...` is detected as well.

    Returns:
        Fraction from 0 to 1, or `None` if the text has fewer than two n-grams.
    """
    pieces = re.findall(r"\w{1,8}|[^\w\s]", text.casefold())
    grams = [tuple(pieces[at : at + n]) for at in range(len(pieces) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if len(grams) > 1 else None
