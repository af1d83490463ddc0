"""Tasks: what is asked, and the hidden truth that decides whether it was done.

A company writes *templates*: functions that draw one task from a seeded random generator and, where the environment has
tables, from the very rows the episode will start with.

    @template(level="L0")
    def set_phone(draw: Draw) -> Task:
        contact = draw.row("SELECT id, name FROM contacts")
        phone = f"+1 555 01{draw.rng.randint(10, 99)}"
        return draw.task(
            prompt=draw.wording([f"Set the phone of {contact['id']} to {phone}.", f"{contact['id']} has a new phone: {phone}."]),
            oracle=[ToolCall("update_contact", {"contact_id": contact["id"], "field": "phone", "value": phone})],
            changes=[Change.update("contacts", contact["id"], phone=phone)],
        )

A task is named `split/template/index` and is a pure function of that name, so any task can be made again from its id.
"""

from __future__ import annotations

import hashlib
import random
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Literal

from envgym.messages import ToolCall

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")


DONE = "Done."
"""What the oracle says at the end where a task has no words of its own."""


class _Any:
    def __repr__(self) -> str:
        return "ANY"

    def __reduce__(self) -> str:  # there is one of it, in every process
        return "ANY"


ANY: Any = _Any()
"""In a `Change`: this column must have changed, to whatever."""


@dataclass(frozen=True, slots=True)
class Change:
    """One row that must have changed by the end of the episode."""

    kind: Literal["insert", "update", "delete"]
    table: str
    key: Any = None
    """Primary key of the row; None for an insert, whose key the application chooses."""
    values: dict[str, Any] = field(default_factory=dict)
    """Column -> value it must have. An update must change these columns and no others; an insert may set more.

    Numbers compare by value, strings without regard to case and outer or repeated white space (files: to the letter).
    """

    @classmethod
    def insert(cls, table: str, **values: Any) -> Change:
        return cls("insert", table, None, values)

    @classmethod
    def update(cls, table: str, key: Any, **values: Any) -> Change:
        return cls("update", table, key, values)

    @classmethod
    def delete(cls, table: str, key: Any) -> Change:
        return cls("delete", table, key)


@dataclass(frozen=True)
class Check:
    """A hidden test: a command that is run on the final files, out of the model's reach; exit code 0 is success.

        Check(files={"tests/test_hidden.py": "..."}, command=("python", "-I", "tests/test_hidden.py"))

    A test that runs code of the model should start it as a program and judge what it prints: code that is imported could end
    the test with exit code 0. It should delete its own file first, so that what it starts cannot read it.
    """

    files: dict[str, str]
    """Relative path -> text, put into a copy of the final folder; they win over what lies there."""
    command: tuple[str, ...]
    """Program and arguments, run in that folder without a shell; `python` is the interpreter of the box."""
    timeout_seconds: float = 10.0
    """After this the test has failed."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "command", tuple(self.command))
        if not self.command or self.timeout_seconds <= 0:
            raise ValueError("a Check needs a command and a timeout_seconds above 0")
        for name in self.files:
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or str(path) != name or name == ".":
                raise ValueError(
                    f"a Check's file '{name}' must be a plain relative path such as 'tests/test_hidden.py'"
                )


@dataclass(frozen=True, slots=True)
class Task:
    """One task with its hidden truth. Frozen; equal ids of one environment mean equal tasks."""

    id: str
    """`split/template/index`."""
    prompt: str
    """The user's message."""
    seed: int
    """Seed of the state the episode starts from; every member of a group shares it."""
    split: Split
    template: str
    level: str = ""
    """Difficulty, such as L0; evaluation reports success for each."""
    tools: tuple[str, ...] | None = None
    """Names of the tools offered; None offers all."""
    oracle: tuple[ToolCall, ...] = ()
    """Hidden: calls that solve the task, in order."""
    final: str = DONE
    """Hidden: what the oracle says at the end."""
    changes: tuple[Change, ...] = ()
    """Hidden: exactly the rows that must have changed."""
    facts: tuple[str, ...] = ()
    """Hidden: strings that the final message must contain."""
    check: Check | None = None
    """Hidden: a test command on the final files."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Hidden: anything a custom reward needs."""

    @property
    def has_solution(self) -> bool:
        """Whether it says what solves it: calls, or last words of its own."""
        return bool(self.oracle) or self.final != DONE


@dataclass(frozen=True, slots=True)
class Template:
    """A named source of tasks."""

    name: str
    level: str
    splits: tuple[Split, ...]
    make: Callable[[Draw], Task]


def template(
    *, level: str = "", splits: Sequence[Split] = SPLITS
) -> Callable[[Callable[[Draw], Task]], Template]:
    """Marks a function of one `Draw` as a template; its name is the function's.

    Args:
        level: difficulty label, such as L0.
        splits: where it may appear; ("test",) holds the whole template out of training.
    """

    def mark(make: Callable[[Draw], Task]) -> Template:
        return Template(make.__name__, level, tuple(splits), make)

    return mark


@dataclass
class Draw:
    """The hand a template is dealt: randomness, the episode's starting rows, and the part of the wording it may use."""

    id: str
    template: Template
    split: Split
    seed: int
    """Seed of the state behind `db`."""
    rng: random.Random
    db: sqlite3.Connection
    """The starting tables (read only in spirit: a private copy)."""
    files: dict[str, str] = field(default_factory=dict)
    """The starting files: relative path -> text (`sha256:...` for what is not UTF-8); folders and links are left out."""
    modes: dict[str, str] = field(default_factory=dict)
    """Relative path -> octal permissions, such as `644`, of all starting files, folders and links."""

    def rows(self, query: str, *parameters: Any) -> list[dict[str, Any]]:
        """All rows of a query, in its order, as dicts."""
        cursor = self.db.execute(query, parameters)
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def row(self, query: str, *parameters: Any) -> dict[str, Any]:
        """One row of a query, drawn at random. Raises LookupError where there is none."""
        found = self.rows(query, *parameters)
        if not found:
            raise LookupError(
                f"template '{self.template.name}': no row for {query!r} with {parameters} (state seed {self.seed})"
            )
        return self.rng.choice(found)

    def wording(self, options: Sequence[str]) -> str:
        """One of the phrasings that belong to this split: the last fifth is for test, the one before for val.

        So no wording of a held-out task was seen in training. Needs at least three options.
        """
        fifth = max(1, len(options) // 5)
        cut_test = len(options) - fifth
        cut_val = len(options) - 2 * fifth
        if cut_val < 1:
            raise ValueError(
                f"template '{self.template.name}': wording() needs at least 3 options to split them, got {len(options)}"
            )
        own = {
            "train": options[:cut_val],
            "val": options[cut_val:cut_test],
            "test": options[cut_test:],
        }[self.split]
        return self.rng.choice(list(own))

    def task(
        self,
        *,
        prompt: str,
        oracle: Iterable[ToolCall] = (),
        final: str = DONE,
        changes: Iterable[Change] = (),
        facts: Iterable[str] = (),
        tools: Iterable[str] | None = None,
        check: Check | None = None,
        **extra: Any,
    ) -> Task:
        """The finished task; fields as in `Task`."""
        return Task(
            id=self.id,
            prompt=prompt,
            seed=self.seed,
            split=self.split,
            template=self.template.name,
            level=self.template.level,
            tools=None if tools is None else tuple(tools),
            oracle=tuple(oracle),
            final=final,
            changes=tuple(changes),
            facts=tuple(facts),
            check=check,
            extra=extra,
        )


def stable_seed(*parts: Any) -> int:
    """A 31-bit seed that depends on nothing but the parts' text: the same in every process and Python version."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1
