"""Templates of single-turn tasks from labelled texts or questions. A complete `tasks.py`:

>>> from envgym.tasksets import label_template, load_rows
>>> ask = "Whose is this ticket? {text} Answer with one of: {labels}."
>>> ticket = label_template("ticket", load_rows("tickets.csv"), ask=ask)

Labels alternate, so a constant answer solves only 1/n of the tasks for n labels. If tools can read
files, keep the data outside of the environment's folder, because the boxes contain that folder.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from envgym.errors import SpecError, did_you_mean
from envgym.tasks import SPLITS, Draw, Task, Template, stable_seed
from envgym.tasksets.examples import Example

Rows = Sequence[Example] | Mapping[str, Sequence[Example]]
"""Rows to be split by their text (8 in 10 for training), or rows that are already split into
`train`, `val` and `test`."""
Dealt = dict[str, dict[Any, list[Example]]]
"""Rows by split and kind. Kinds alternate; a kind is a label, or whether there is an answer."""


def label_template(name: str, rows: Rows, *, ask: str, level: str = "") -> Template:
    """Build a template of tasks with a label as the answer.

    Labels alternate, even if the file is unbalanced. The reward part is `label_right`.

    Args:
        name: Name of the template, an identifier.
        rows: Rows with a label. Equal texts must have equal labels.
        ask: Message of the user. `{text}` (or the names of the rows' texts) and `{labels}` are
            replaced.
        level: Difficulty label, such as L0.

    Raises:
        SpecError: If a row is invalid or a split lacks a label.
    """
    dealt = _dealt(name, rows, lambda row: row.label, _whole_text)
    labels = sorted(next(iter(dealt.values())))
    if len({label.casefold() for label in labels}) < len(labels):
        raise SpecError(f"'{name}': two labels differ only in case: {', '.join(labels)}")

    def make(draw: Draw) -> Task:
        row = _row_of(draw, dealt)
        prompt = ask.format(**row.texts, labels=", ".join(labels))
        return draw.task(prompt=prompt, final=row.label or "", label=row.label, labels=labels)

    return _template(name, level, dealt, make, ask, ("labels",))


def question_template(
    name: str, rows: Rows, *, ask: str, no_answer: str = "unanswerable", level: str = ""
) -> Template:
    """Build a template of tasks with a span of a passage as the answer.

    No passage occurs in two splits. If some questions are unanswerable, every second task is such a
    question. Reward parts are `answer_exact` and related ones.

    Args:
        name: Name of the template, an identifier.
        rows: Rows with `answers`.
        ask: Message of the user. `{context}`, `{question}` and `{no_answer}` are replaced.
        no_answer: Answer to an unanswerable question, equal to the option of `answer_exact`.
        level: Difficulty label, such as L0.

    Raises:
        SpecError: If a row is invalid or a split lacks a kind of question.
    """
    dealt = _dealt(
        name, rows, lambda row: None if row.answers is None else bool(row.answers), _passage
    )

    def make(draw: Draw) -> Task:
        row = _row_of(draw, dealt)
        answers = list(row.answers or ())
        prompt = ask.format(**row.texts, no_answer=no_answer)
        return draw.task(prompt=prompt, final=answers[0] if answers else no_answer, answers=answers)

    return _template(name, level, dealt, make, ask, ("no_answer",))


def _row_of(draw: Draw, dealt: Dealt) -> Example:
    """Return the row of a task index: kinds alternate, and each kind cycles through its rows."""
    index = int(draw.id.rsplit("/", 1)[1])
    kinds = dealt[draw.split]
    kind = sorted(kinds)[index % len(kinds)]
    return kinds[kind][index // len(kinds) % len(kinds[kind])]


def _dealt(
    name: str, rows: Rows, kind_of: Callable[[Example], Hashable], apart: Callable[[Example], str]
) -> Dealt:
    """Return the rows by split and kind. Rows with the same `apart` text stay in one split."""
    if isinstance(rows, Mapping):
        if wrong := [split for split in rows if split not in SPLITS]:
            raise SpecError(
                f"'{name}': no split '{wrong[0]}'{did_you_mean(wrong[0], SPLITS)}; "
                f"splits: {', '.join(SPLITS)}"
            )
        placed = [(split, row) for split, own in rows.items() for row in own]
    else:
        placed = [(_split_of(apart(row)), row) for row in rows]
    _check_truth([row for _, row in placed], kind_of, name)
    _check_apart(placed, apart)
    dealt: Dealt = defaultdict(lambda: defaultdict(list))
    for split, row in placed:
        dealt[split][kind_of(row)].append(row)
    _check_kinds(dealt, name)
    return {split: dict(kinds) for split, kinds in dealt.items()}


def _split_of(text: str) -> str:
    """Return the split by a hash, so that a row keeps its split when rows are added to the file."""
    return (*["train"] * 8, "val", "test")[stable_seed("split", text) % 10]


def _passage(row: Example) -> str:
    return row.texts.get("context", _whole_text(row))


def _whole_text(row: Example) -> str:
    return "\x1f".join(" ".join(text.split()) for text in row.texts.values())


def _check_truth(
    rows: Sequence[Example], kind_of: Callable[[Example], Hashable], name: str
) -> None:
    first: dict[str, Example] = {}
    for row in rows:
        if kind_of(row) is None:
            raise SpecError(
                f"{row.where}: has no label (or, for questions, no answers), which '{name}' needs"
            )
        other = first.setdefault(_whole_text(row), row)
        if other.label != row.label:
            raise SpecError(
                f"{row.where}: the same text is '{row.label}' here "
                f"and '{other.label}' at {other.where}"
            )


def _check_apart(placed: Sequence[tuple[str, Example]], apart: Callable[[Example], str]) -> None:
    first: dict[str, tuple[str, Example]] = {}
    for split, row in placed:
        other_split, other = first.setdefault(apart(row), (split, row))
        if other_split != split:
            raise SpecError(
                f"{row.where}: the same text is in '{split}' here "
                f"and in '{other_split}' at {other.where}"
            )


def _check_kinds(dealt: Dealt, name: str) -> None:
    kinds = {kind for own in dealt.values() for kind in own}
    for split in SPLITS:
        if lacking := sorted(str(kind) for kind in kinds - set(dealt.get(split, ()))):
            remedy = "add rows, or pass the splits: {'train': [...], 'val': [...], 'test': [...]}"
            raise SpecError(
                f"'{name}': split '{split}' has no row of kind '{lacking[0]}'; {remedy}"
            )
    if len(kinds) < 2 and kinds != {True}:
        raise SpecError(
            f"'{name}': all rows have the label {kinds or 'none'}; at least two labels are needed"
        )


def _template(
    name: str,
    level: str,
    dealt: Dealt,
    make: Callable[[Draw], Task],
    ask: str,
    given: tuple[str, ...],
) -> Template:
    """Return the template if `ask` fits the rows. Raise SpecError otherwise."""
    if not name.isidentifier():
        raise SpecError(f"template name '{name}' must be a plain word, such as tickets")
    row = next(row for kinds in dealt.values() for rows in kinds.values() for row in rows)
    try:
        ask.format(**row.texts, **dict.fromkeys(given, ""))
    except (KeyError, IndexError, ValueError) as error:
        fields = ", ".join(f"{{{field}}}" for field in (*row.texts, *given))
        raise SpecError(
            f"'{name}': ask cannot be filled in ({type(error).__name__}: {error}); "
            f"available fields: {fields}"
        ) from None
    return Template(name, level, SPLITS, make)
