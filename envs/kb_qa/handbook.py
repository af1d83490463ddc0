"""Write the handbook of a seed: sections on 12 people, 9 offices and 6 machines.

Each split has a third of the sections. A section states three of its five attributes; the others
are for questions without an answer. It also links to another section of its split, which is the
second hop: the manager of an office, the keeper of a machine, the office of a person. Uses only the
standard library, because it runs in the sandbox.
"""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass

import names
import wording

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
    """Person, office or machine that a section describes."""

    id: str
    kind: str
    split: str
    name: str
    """Name within a sentence: `Ada Falk`, `the Corby office`, `the kiln Hebe`."""

    @property
    def title(self) -> str:
        bare = self.name.removeprefix("the ")
        return bare[:1].upper() + bare[1:]


def build(db: sqlite3.Connection, seed: int) -> None:
    """Fill the empty tables; the result depends only on the seed."""
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
    """Insert a subject's section, and its facts with the omitted ones as NULL."""
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
