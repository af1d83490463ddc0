"""Tasks and templates: the prompt of a task and the hidden truth that decides whether it is solved.

A company writes *templates*: functions that draw one task from a seeded random generator and, if
the environment has tables, from the rows that the episode starts with.

>>> @template(level="L0")
... def set_phone(draw: Draw) -> Task:
...     name, phone = draw.row("SELECT id FROM contacts")["id"], draw.rng.randrange(100, 999)
...     return draw.task(
...         prompt=f"Set the phone of {name} to {phone}.",
...         oracle=[ToolCall("set_phone", {"contact": name, "phone": phone})],
...         changes=[Change.update("contacts", name, phone=phone)],
...     )
>>> set_phone.splits
('train', 'val', 'test')

A task id is `split/template/index`. The task is a pure function of its id, so it can be rebuilt.
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
from envgym.text import clean_value

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")


DONE = "Done."
"""Final message of the oracle, unless the task defines one."""


class _Any:
    def __repr__(self) -> str:
        return "ANY"

    def __reduce__(self) -> str:  # unpickling returns the singleton, in every process
        return "ANY"


ANY: Any = _Any()
"""Placeholder in a `Change`: the column must have changed, to any value."""


class _Nothing(tuple[()]):
    """Empty list of changes that is meant as a requirement."""

    def __repr__(self) -> str:
        return "NOTHING"


NOTHING: Any = _Nothing()
"""Value of `changes` for a task in which no row may change, such as a request to refuse. The task
then needs `facts`, or an `oracle` whose calls are required."""


@dataclass(frozen=True, slots=True)
class Change:
    """One row that must have changed by the end of the episode."""

    kind: Literal["insert", "update", "delete"]
    table: str
    key: Any = None
    """Primary key of the row; None for an insert, whose key the application chooses."""
    values: dict[str, Any] = field(default_factory=dict)
    """Expected value by column. An update must change these columns and no others; an insert may
    set more.

    Numbers compare by value: integers exactly, floats up to rounding. Text compares exactly, or
    without regard to case and white space in columns of `state.free_text`."""

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
    """Hidden test: a Python program of yours that runs on the final files. Exit code 0 is success.

    >>> test = "assert open('answer.txt').read() == '42'"
    >>> check = Check({"hidden.py": test}, command=("python", "-I", "hidden.py"))

    The test runs in a fresh box under a user of its own. Programs that it starts with `subprocess`
    run under another user and can neither read nor change it. A test cannot import the model's
    code, which could end the test with exit code 0: it starts that code as a program.
    """

    files: dict[str, str]
    """Text of the hidden files by relative path. The test finds them at their path in the copy of
    the final folder; the model's programs do not. They replace existing files."""
    command: tuple[str, ...]
    """`python` (the interpreter of the box), its flags, a hidden file, `-m module` or `-c code`,
    and arguments. Without hidden files any program, which then runs as the model's programs do."""
    timeout_seconds: float = 10.0
    """Time limit in seconds. If it is exceeded, the test has failed."""
    inputs: dict[str, str] = field(default_factory=dict)
    """Text by relative path of files that the model's programs may read, such as input data. They
    are written into the copy of the final folder and replace existing files."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "command", tuple(self.command))
        if not self.command or self.timeout_seconds <= 0:
            raise ValueError("a Check needs a command and a timeout_seconds above 0")
        for name in (*self.files, *self.inputs):
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or str(path) != name or name == ".":
                raise ValueError(
                    f"a Check's file '{name}' must be a plain relative path "
                    "such as 'tests/test_hidden.py'"
                )


@dataclass(frozen=True, slots=True)
class Task:
    """One task with its hidden truth. Frozen; in one environment, equal ids mean equal tasks."""

    id: str
    """Id of the form `split/template/index`."""
    prompt: str
    """Message of the user."""
    seed: int
    """Seed of the state from which the episode starts; equal for all members of a group."""
    split: Split
    template: str
    level: str = ""
    """Difficulty, such as L0. Evaluation reports the success rate by level."""
    tools: tuple[str, ...] | None = None
    """Names of the tools offered; None for all."""
    oracle: tuple[ToolCall, ...] = ()
    """Hidden: calls that solve the task, in order."""
    final: str = DONE
    """Hidden: final message of the oracle."""
    changes: tuple[Change, ...] = ()
    """Hidden: all rows that must have changed; other changes are unexpected."""
    facts: tuple[str, ...] = ()
    """Hidden: strings that the final message must contain."""
    check: Check | None = None
    """Hidden: test command that runs on the final files."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Hidden: further data for custom rewards."""
    unchanged: bool = False
    """Hidden: whether no row may change (`changes=NOTHING`). The calls of the oracle are then
    required."""

    def __post_init__(self) -> None:
        # The hidden truth is cleaned as the answers are, so that equal texts stay equal.
        for name in ("prompt", "oracle", "final", "changes", "facts", "extra"):
            object.__setattr__(self, name, clean_value(getattr(self, name)))

    @property
    def has_solution(self) -> bool:
        """Whether the task defines calls or a final message that solve it."""
        return bool(self.oracle) or self.final != DONE


@dataclass(frozen=True, slots=True)
class TemplateInfo:
    """Name, level and splits of a source of tasks."""

    name: str
    level: str
    splits: tuple[Split, ...]
    """Splits whose tasks it makes."""


@dataclass(frozen=True, slots=True)
class Template(TemplateInfo):
    """Named function that makes tasks."""

    make: Callable[[Draw], Task]


def template(
    *, level: str = "", splits: Sequence[Split] = SPLITS
) -> Callable[[Callable[[Draw], Task]], Template]:
    """Return a decorator that turns a function of one `Draw` into a template with the same name.

    Args:
        level: Difficulty label, such as L0.
        splits: Splits that use the template. ("test",) keeps the whole template out of training.
    """

    def mark(make: Callable[[Draw], Task]) -> Template:
        return Template(make.__name__, level, tuple(splits), make)

    return mark


@dataclass
class Draw:
    """Everything a template may use to build one task.

    It has a seeded random generator, the initial tables and files, and the phrasings of its split.
    """

    id: str
    template: Template
    split: Split
    seed: int
    """Seed of the state in `db`."""
    rng: random.Random
    db: sqlite3.Connection
    """Initial tables, as a private copy. Changes to it have no effect."""
    files: dict[str, str] = field(default_factory=dict)
    """Text of the initial files by relative path (`sha256:...` if a file is not UTF-8). Folders and
    links are omitted."""
    modes: dict[str, str] = field(default_factory=dict)
    """Octal permissions, such as `644`, by relative path, for all initial files, folders and
    links."""

    def rows(self, query: str, *parameters: Any) -> list[dict[str, Any]]:
        """Return all rows of a query as dicts, in the order of the query."""
        cursor = self.db.execute(query, parameters)
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def row(self, query: str, *parameters: Any) -> dict[str, Any]:
        """Return one random row of a query.

        Raises:
            LookupError: If the query returns no row.
        """
        found = self.rows(query, *parameters)
        if not found:
            raise LookupError(
                f"template '{self.template.name}': no row for {query!r} with {parameters} "
                f"(state seed {self.seed})"
            )
        return self.rng.choice(found)

    def wording(self, options: Sequence[str]) -> str:
        """Return one of the phrasings of this split.

        The last fifth of `options` is for test, the fifth before it for val, the rest for train. So
        training never sees the wording of a held-out task.

        Raises:
            ValueError: If there are fewer than three options.
        """
        fifth = max(1, len(options) // 5)
        cut_test = len(options) - fifth
        cut_val = len(options) - 2 * fifth
        if cut_val < 1:
            raise ValueError(
                f"template '{self.template.name}': wording() needs at least 3 options "
                f"to split them, got {len(options)}"
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
        """Build the task. The arguments are the fields of `Task`.

        Args:
            changes: All rows that must have changed, or `NOTHING` if no row may change.

        Raises:
            ValueError: If nothing may change, and neither facts nor calls are required.
        """
        unchanged = changes is NOTHING
        facts, oracle = tuple(facts), tuple(oracle)
        if unchanged and not facts and not oracle:
            raise ValueError(
                f"task '{self.id}': with changes=NOTHING a task needs facts or an oracle, whose "
                "calls are then required. Otherwise doing nothing would solve it"
            )
        return Task(
            id=self.id,
            prompt=prompt,
            seed=self.seed,
            split=self.split,
            template=self.template.name,
            level=self.template.level,
            tools=None if tools is None else tuple(tools),
            oracle=oracle,
            final=final,
            changes=tuple(changes),
            unchanged=unchanged,
            facts=facts,
            check=check,
            extra=extra,
        )


def stable_seed(*parts: Any) -> int:
    """Return a 31-bit seed that depends only on the text of `parts`.

    The seed is the same in every process and Python version.

    Args:
        parts: Anything whose `str` is always the same, such as numbers and ids.

    >>> stable_seed(0, "test/find_number/3")
    440119829
    """
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode(errors="backslashreplace")).digest()
    return int.from_bytes(digest[:4], "big") >> 1
