"""Wording of the handbook and of the questions; the last options of each list are held out.

Sections of held-out people and places use held-out wording too. Uses only the standard library,
because it runs in the sandbox.
"""

from __future__ import annotations

STATES = (
    "The {what} is {value}.",
    "{What}: {value}.",
    "On file as {what}: {value}.",
    "We list {value} as the {what}.",
    "Current {what}: {value}.",
    "The {what} was set to {value}.",
    "{value} is the {what}.",
    "Registered {what}: {value}.",
    "The {what} reads {value}.",
    "As {what}, take {value}.",
)
RUN_BY = (
    "It is run by {who}.",
    "{who} runs it.",
    "In charge: {who}.",
    "Its manager is {who}.",
    "{who} leads it.",
)
KEPT_BY = (
    "{who} looks after it.",
    "It is kept by {who}.",
    "Keeper: {who}.",
    "Responsible for it: {who}.",
    "{who} takes care of it.",
)
BASED_IN = (
    "Based in {who}.",
    "Works at {who}.",
    "Sits in {who}.",
    "Place of work: {who}.",
    "Found in {who}.",
)

ASKS = (
    "What is the {what} of {who}?",
    "Which {what} does {who} have?",
    "Tell me the {what} of {who}.",
    "I need the {what} of {who}.",
    "Please look up the {what} of {who}.",
    "Can you find the {what} of {who}?",
    "The {what} of {who}, please.",
    "Do you know the {what} of {who}?",
    "What do we have as the {what} of {who}?",
    "Of {who}, what is the {what}?",
)
RUNNER = (
    "whoever runs {of}",
    "the person who runs {of}",
    "the one in charge of {of}",
    "the manager of {of}",
    "the head of {of}",
)
KEEPER = (
    "whoever looks after {of}",
    "the person who keeps {of}",
    "the one responsible for {of}",
    "the keeper of {of}",
    "the caretaker of {of}",
)
BASE = (
    "the office where {of} works",
    "the office that {of} is based in",
    "the place where {of} works",
    "the workplace of {of}",
    "the site that {of} belongs to",
)


def own(options: tuple[str, ...], split: str) -> tuple[str, ...]:
    """Return the options of a split, divided in the same way as by `Draw.wording`."""
    fifth = max(1, len(options) // 5)
    return {
        "train": options[: -2 * fifth],
        "val": options[-2 * fifth : -fifth],
        "test": options[-fifth:],
    }[split]


def fill(frame: str, **slots: str) -> str:
    """Fill the slots of a frame; `{What}` is `what` with a capital letter.

    The first letter of the result is a capital letter too.
    """
    slots |= {name.capitalize(): text[:1].upper() + text[1:] for name, text in slots.items()}
    text = frame.format(**slots)
    return text[:1].upper() + text[1:]
