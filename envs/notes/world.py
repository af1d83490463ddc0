"""Initial notes and calendar: 30 rows each, from a seed. Titles are unique within a table."""

import random

Row = dict[str, str]

KINDS = (
    "budget",
    "launch",
    "hiring",
    "office",
    "summer",
    "server",
    "travel",
    "design",
    "sales",
    "safety",
    "garden",
    "school",
)
THINGS = (
    "review",
    "meeting",
    "lunch",
    "workshop",
    "forecast",
    "checklist",
    "contract",
    "survey",
    "party",
    "audit",
    "demo",
    "talk",
)
TOPICS = (
    "prices",
    "chairs",
    "badges",
    "printers",
    "cables",
    "keys",
    "coffee",
    "parking",
    "windows",
    "posters",
    "tickets",
    "lamps",
)
DOINGS = (
    "order more",
    "ask about",
    "count the",
    "move the",
    "pay for",
    "check all",
    "return the",
    "paint the",
)


def text(rng: random.Random) -> str:
    return f"{rng.choice(DOINGS)} {rng.choice(TOPICS)} by {rng.randint(2, 28)}"


def day(rng: random.Random) -> str:
    return f"2026-{rng.randint(3, 12):02}-{rng.randint(1, 28):02}"


def time(rng: random.Random) -> str:
    return f"{rng.randint(8, 17):02}:{rng.choice((0, 15, 30, 45)):02}"


def room(rng: random.Random) -> str:
    return f"R{rng.randint(100, 999)}"


def title(rng: random.Random) -> str:
    return f"{rng.choice(KINDS)} {rng.choice(THINGS)}"


def build(seed: int) -> dict[str, list[Row]]:
    """Return the rows of each table."""
    rng = random.Random(seed)
    titles = [f"{kind} {thing}" for kind in KINDS for thing in THINGS]
    notes = [
        {"id": id_, "title": title, "text": text(rng)} for id_, title in _named(rng, "N", titles)
    ]
    named = _named(rng, "E", titles)
    events = [
        {"id": id_, "title": title, "day": day(rng), "time": time(rng), "room": room(rng)}
        for id_, title in named
    ]
    return {"notes": notes, "events": events}


def _named(rng: random.Random, letter: str, titles: list[str]) -> list[tuple[str, str]]:
    numbers = rng.sample(range(100, 999), 30)
    return [
        (f"{letter}{number}", title)
        for number, title in zip(numbers, rng.sample(titles, 30), strict=True)
    ]
