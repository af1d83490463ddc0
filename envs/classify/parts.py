"""Helpers of all classification templates: names by split, balanced labels, the final question."""

from __future__ import annotations

from collections.abc import Sequence

from envgym import Draw, Task

PEOPLE = {
    "train": (
        "Agnes",
        "Boris",
        "Clara",
        "Dario",
        "Edith",
        "Fabian",
        "Gudrun",
        "Hamid",
        "Irene",
        "Jakob",
        "Klara",
        "Leander",
    ),
    "val": ("Milena", "Norbert", "Otilia", "Pascal", "Quirin", "Ronja"),
    "test": ("Samir", "Tilda", "Urban", "Viola", "Wanja", "Zoltan"),
}
THINGS = {
    "train": (
        "lamp",
        "chair",
        "kettle",
        "carpet",
        "clock",
        "basket",
        "mirror",
        "heater",
        "blanket",
        "radio",
    ),
    "val": ("toaster", "curtain", "ladder", "pillow", "fan"),
    "test": ("bookcase", "freezer", "hammock", "doorbell", "candle"),
}
CITIES = {
    "train": (
        "Lyon",
        "Turin",
        "Porto",
        "Ghent",
        "Malmo",
        "Graz",
        "Split",
        "Cork",
        "Basel",
        "Bergen",
    ),
    "val": ("Vilnius", "Seville", "Leeds", "Trieste", "Aarhus"),
    "test": ("Gdansk", "Nantes", "Bilbao", "Utrecht", "Tampere"),
}
ANSWER_WITH = (
    "Answer with one of: {labels}.",
    "Which label fits: {labels}?",
    "Labels: {labels}.",
    "Choose one: {labels}.",
    "One of these is right: {labels}.",
)


def in_turn(draw: Draw, labels: Sequence[str]) -> str:
    """Return the label of a task by its index, so that the labels of a split are balanced."""
    return labels[int(draw.id.rsplit("/", 1)[1]) % len(labels)]


def several(draw: Draw, pool: dict[str, tuple[str, ...]], count: int) -> list[str]:
    """Draw different names of the task's split."""
    return draw.rng.sample(pool[draw.split], count)


def two_wordings(draw: Draw, options: Sequence[str]) -> tuple[str, str]:
    """Draw two different phrasings of the task's split.

    At least ten options are required, because a fifth of them is held out per split.
    """
    one = draw.wording(options)
    return one, next(other for other in iter(lambda: draw.wording(options), "") if other != one)


def labelled(draw: Draw, text: str, label: str, labels: Sequence[str]) -> Task:
    """Return the task that asks for the label of a text."""
    prompt = f"{text}\n{draw.wording(ANSWER_WITH).format(labels=', '.join(labels))}"
    return draw.task(prompt=prompt, final=label, tools=(), label=label, labels=list(labels))
