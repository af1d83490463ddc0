"""One task: find the hidden number.

The oracle halves the range, so that imitation learns a strategy and not an answer.
"""

from __future__ import annotations

from envgym import Change, Draw, Task, ToolCall, template

PROMPTS = (
    "Find it.",
    "Find the number.",
    "Guess it.",
    "Guess the number.",
    "Go.",
    "Start.",
    "Play.",
    "Your turn.",
    "Begin.",
    "Which is it?",
)


@template(level="L0")
def find_number(draw: Draw) -> Task:
    secret = draw.row("SELECT number, highest FROM secret")
    return draw.task(
        prompt=draw.wording(PROMPTS),
        oracle=[
            ToolCall("guess", {"number": number})
            for number in halving(secret["number"], low=1, high=secret["highest"])
        ],
        changes=[Change.insert("guesses", number=secret["number"])],
    )


def halving(hidden: int, *, low: int, high: int) -> list[int]:
    """Return the guesses of a binary search with the hit: at most 4 for 15 numbers, 6 for 63."""
    guesses = []
    while not guesses or guesses[-1] != hidden:
        middle = (low + high) // 2
        guesses.append(middle)
        low, high = (middle + 1, high) if hidden > middle else (low, middle - 1)
    return guesses
