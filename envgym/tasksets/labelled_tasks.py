"""A file of labelled texts, or of questions, as a template of single-turn tasks. A whole `tasks.py`:

    from pathlib import Path
    from envgym.tasksets.labelled_rows import load_rows
    from envgym.tasksets.labelled_tasks import label_template

    ROWS = load_rows(Path(__file__).parent / "tickets.csv")
    ticket = label_template("ticket", ROWS, ask="Whose is this ticket? {text} Answer with one of: {labels}.")

Labels come in turn, so that always answering one and the same of n solves 1/n of the tasks, however rare it is in the file;
with unanswerable questions among them, every second question is one. Judged by `label_right`, or `answer_exact` and its kin.
Where tools read files, keep the data outside of the environment's folder: its boxes get what lies there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from envgym.errors import SpecError, did_you_mean
from envgym.tasks import SPLITS, Draw, Task, Template, stable_seed
from envgym.tasksets.labelled_rows import Row

Rows = Sequence[Row] | Mapping[str, Sequence[Row]]
"""Rows to be split by their text (8 in 10 for training), or rows of `train`, `val` and `test` that are split already."""
Dealt = dict[str, dict[Any, list[Row]]]
"""Split -> what must come in turn (label, or whether there is an answer) -> its rows."""


def label_template(name: str, rows: Rows, *, ask: str, level: str = "") -> Template:
    """Tasks whose answer is a label.

    Args:
        name: of the template, a plain word.
        rows: with a label each. Equal texts must have equal labels.
        ask: the user's message; `{text}` or whatever the rows' texts are called, and `{labels}`, are filled in.
        level: difficulty label, such as L0.
    Raises: SpecError for rows that cannot be used, and for a split that lacks a label.
    """
    dealt = _dealt(name, rows, lambda row: row.label, _whole_text)
    labels = sorted(next(iter(dealt.values())))
    if len({label.casefold() for label in labels}) < len(labels):
        raise SpecError(f"'{name}': two labels differ in nothing but case: {', '.join(labels)}")

    def make(draw: Draw) -> Task:
        row = _row_of(draw, dealt)
        prompt = ask.format(**row.texts, labels=", ".join(labels))
        return draw.task(prompt=prompt, final=row.label or "", label=row.label, labels=labels)

    return _template(name, level, dealt, make, ask, ("labels",))


def question_template(
    name: str, rows: Rows, *, ask: str, no_answer: str = "unanswerable", level: str = ""
) -> Template:
    """Tasks whose answer is a span of a passage. No passage stands in two splits.

    Args:
        rows: with `answers`.
        ask: the user's message; `{context}`, `{question}` and `{no_answer}` are filled in.
        no_answer: what is to be said where there is no answer; the same as the option of `answer_exact`.
        name, level: as of `label_template`.
    Raises: as `label_template`.
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


def _row_of(draw: Draw, dealt: Dealt) -> Row:
    """The row of a task's index: its kind in turn, then the next row of this kind."""
    index = int(draw.id.rsplit("/", 1)[1])
    kinds = dealt[draw.split]
    kind = sorted(kinds)[index % len(kinds)]
    return kinds[kind][index // len(kinds) % len(kinds[kind])]


def _dealt(
    name: str, rows: Rows, kind_of: Callable[[Row], Hashable], apart: Callable[[Row], str]
) -> Dealt:
    """The rows by split and kind. Rows with the same `apart` text stay in one split."""
    if isinstance(rows, Mapping):
        if wrong := [split for split in rows if split not in SPLITS]:
            raise SpecError(
                f"'{name}': no split '{wrong[0]}'{did_you_mean(wrong[0], SPLITS)}; splits: {', '.join(SPLITS)}"
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
    """By a hash, so that a row stays where it is when others are added to the file."""
    return (*["train"] * 8, "val", "test")[stable_seed("split", text) % 10]


def _passage(row: Row) -> str:
    return row.texts.get("context", _whole_text(row))


def _whole_text(row: Row) -> str:
    return "\x1f".join(" ".join(text.split()) for text in row.texts.values())


def _check_truth(rows: Sequence[Row], kind_of: Callable[[Row], Hashable], name: str) -> None:
    first: dict[str, Row] = {}
    for row in rows:
        if kind_of(row) is None:
            raise SpecError(
                f"{row.where}: has no truth of the kind that '{name}' needs (label, or answers)"
            )
        other = first.setdefault(_whole_text(row), row)
        if other.label != row.label:
            raise SpecError(
                f"{row.where}: the same text is '{row.label}' here and '{other.label}' at {other.where}"
            )


def _check_apart(placed: Sequence[tuple[str, Row]], apart: Callable[[Row], str]) -> None:
    first: dict[str, tuple[str, Row]] = {}
    for split, row in placed:
        other_split, other = first.setdefault(apart(row), (split, row))
        if other_split != split:
            raise SpecError(
                f"{row.where}: the same text stands in '{split}' here and in '{other_split}' at {other.where}"
            )


def _check_kinds(dealt: Dealt, name: str) -> None:
    kinds = {kind for own in dealt.values() for kind in own}
    for split in SPLITS:
        if lacking := sorted(str(kind) for kind in kinds - set(dealt.get(split, ()))):
            way_out = "add rows, or give the splits yourself: {'train': [...], 'val': [...], 'test': [...]}"
            raise SpecError(
                f"'{name}': split '{split}' has no row of kind '{lacking[0]}'; {way_out}"
            )
    if len(kinds) < 2 and kinds != {True}:
        raise SpecError(
            f"'{name}': all rows have the label {kinds or 'none'}; there is nothing to learn"
        )


def _template(
    name: str,
    level: str,
    dealt: Dealt,
    make: Callable[[Draw], Task],
    ask: str,
    given: tuple[str, ...],
) -> Template:
    """The template, once `ask` is known to fit the rows. Raises SpecError."""
    if not name.isidentifier():
        raise SpecError(f"template name '{name}' must be a plain word, such as tickets")
    row = next(row for kinds in dealt.values() for rows in kinds.values() for row in rows)
    try:
        ask.format(**row.texts, **dict.fromkeys(given, ""))
    except (KeyError, IndexError, ValueError) as error:
        fields = ", ".join(f"{{{field}}}" for field in (*row.texts, *given))
        raise SpecError(
            f"'{name}': ask cannot be filled in ({type(error).__name__}: {error}); it may hold {fields}"
        ) from None
    return Template(name, level, SPLITS, make)
