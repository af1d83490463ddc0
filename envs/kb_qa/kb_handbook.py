"""Writes the handbook of a seed: a section for each of 12 people, 9 offices and 6 machines, a third of them of each split.

Of its five attributes a section states three; the other two are for questions that have no answer. An office names who runs
it, a machine who keeps it, a person where they work: the second hop, always within a split.
Standard library only: it runs in the box.
"""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass

import kb_names as names
import kb_wording as wording

STATED = 3
Maker = Callable[[random.Random], str]
ATTRIBUTES: dict[str, dict[str, Maker]] = {
    "person": {
        "extension": lambda rng: str(rng.randint(2000, 9899)),
        "desk": lambda rng: f"{rng.choice('ABCDEFG')}{rng.randint(11, 98)}",
        "locker": lambda rng: str(rng.randint(201, 989)),
        "badge number": lambda rng: str(rng.randint(10_000, 98_999)),
        "review month": lambda rng: rng.choice(names.MONTHS),
    },
    "office": {
        "door code": lambda rng: str(rng.randint(1100, 9899)),
        "opening hour": lambda rng: f"{rng.randint(6, 9)}:{rng.randint(1, 11) * 5:02}",
        "number of parking spaces": lambda rng: str(rng.randint(21, 198)),
        "fire drill month": lambda rng: rng.choice(names.MONTHS),
        "yearly rent": lambda rng: f"{rng.randint(21, 98)},{rng.randint(100, 998)} euros",
    },
    "machine": {
        "serial number": lambda rng: f"{rng.choice('KLMNPQ')}{rng.randint(1000, 9899)}",
        "weight": lambda rng: f"{rng.randint(121, 979)} kg",
        "service month": lambda rng: rng.choice(names.MONTHS),
        "purchase price": lambda rng: f"{rng.randint(2, 19)},{rng.randint(100, 998)} euros",
        "power": lambda rng: f"{rng.randint(12, 98)} kW",
    },
}


@dataclass(frozen=True)
class Subject:
    """What a section is about."""

    id: str
    kind: str
    split: str
    name: str
    """As it stands in a sentence: `Ada Falk`, `the Corby office`, `the kiln Hebe`."""

    @property
    def title(self) -> str:
        bare = self.name.removeprefix("the ")
        return bare[:1].upper() + bare[1:]


def build(db: sqlite3.Connection, seed: int) -> None:
    """Fills the empty tables; the same seed gives the same handbook everywhere."""
    rng = random.Random(seed)
    numbers = rng.sample(range(100, 999), 27)
    for split in ("train", "val", "test"):
        people, offices, machines = _subjects(rng, split, numbers)
        for person in people:
            _write(db, rng, person, "base", rng.choice(offices), wording.BASED_IN)
        for office in offices:
            _write(db, rng, office, "runner", rng.choice(people), wording.RUN_BY)
        for machine in machines:
            _write(db, rng, machine, "keeper", rng.choice(people), wording.KEPT_BY)


def _subjects(rng: random.Random, split: str, numbers: list[int]) -> tuple[list[Subject], ...]:
    first, last = (rng.sample(pool[split], 4) for pool in (names.FIRST, names.LAST))
    called = {
        "person": [f"{one} {other}" for one, other in zip(first, last, strict=True)],
        "office": [f"the {site} office" for site in rng.sample(names.SITES[split], 3)],
        "machine": [f"the {machine}" for machine in rng.sample(names.MACHINES[split], 2)],
    }
    return tuple(
        [Subject(f"H{numbers.pop()}", kind, split, name) for name in own]
        for kind, own in called.items()
    )


def _write(
    db: sqlite3.Connection,
    rng: random.Random,
    subject: Subject,
    relation: str,
    target: Subject,
    phrasings: tuple[str, ...],
) -> None:
    """A subject's section, and beside it what it says and leaves unsaid."""
    values = {what: make(rng) for what, make in ATTRIBUTES[subject.kind].items()}
    stated = rng.sample(sorted(values), STATED)
    frames = rng.sample([*wording.own(wording.STATES, subject.split)] * 2, STATED)
    sentences = [
        wording.fill(frame, what=what, value=values[what])
        for frame, what in zip(frames, stated, strict=True)
    ]
    link = wording.fill(rng.choice(wording.own(phrasings, subject.split)), who=target.name)
    sentences.insert(rng.randint(0, STATED), link)
    db.execute(
        "INSERT INTO sections VALUES (?, ?, ?)", (subject.id, subject.title, " ".join(sentences))
    )
    facts = [
        (subject.id, subject.kind, subject.split, what, values[what] if what in stated else None)
        for what in sorted(values)
    ]
    db.executemany("INSERT INTO facts VALUES (?, ?, ?, ?, ?)", facts)
    db.execute(
        "INSERT INTO links VALUES (?, ?, ?, ?)", (subject.id, relation, target.id, subject.split)
    )
