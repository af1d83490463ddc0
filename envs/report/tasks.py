"""Tasks of the report: one artefact from given numbers (L0), two (L1) or three from a file (L2).

The true chart is drawn with the code of the tools; the true JSON and sentence use the same numbers.
Each level holds out one template, each kind of goods belongs to one split, and the last phrasings
of each piece of a request are held out.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import charts
import wording
from names import COLUMNS, ITEMS, KINDS

from envgym import Change, Draw, Task, ToolCall, template

KEYS = {
    "total": ('"total" (the sum)', lambda numbers: sum(numbers.values())),
    "count": ('"count" (how many items)', len),
    "top": (
        '"top" (the item with the most)',
        lambda numbers: max(numbers, key=numbers.__getitem__),
    ),
    "low": (
        '"low" (the item with the least)',
        lambda numbers: min(numbers, key=numbers.__getitem__),
    ),
}
"""Key of a summary -> its description in the request, and the function that computes its value."""


@template(level="L0")
def bars_of_list(draw: Draw) -> Task:
    return _listed(draw).bars().task()


@template(level="L0")
def summary_of_list(draw: Draw) -> Task:
    return _listed(draw).summary().task()


@template(level="L0")
def sentence_of_list(draw: Draw) -> Task:
    return _listed(draw).sentence().task()


@template(level="L0", splits=("test",))
def line_of_list(draw: Draw) -> Task:
    return _listed(draw).line().task()


@template(level="L1")
def bars_and_summary(draw: Draw) -> Task:
    return _filed(draw).bars().summary().task()


@template(level="L1")
def bars_and_sentence(draw: Draw) -> Task:
    return _filed(draw).bars().sentence().task()


@template(level="L1")
def line_and_summary(draw: Draw) -> Task:
    return _filed(draw).line().summary().task()


@template(level="L1", splits=("test",))
def summary_and_sentence(draw: Draw) -> Task:
    return _filed(draw).summary().sentence().task()


@template(level="L2")
def bars_report(draw: Draw) -> Task:
    return _filed(draw).bars().summary().sentence().task()


@template(level="L2", splits=("test",))
def line_report(draw: Draw) -> Task:
    return _filed(draw).line().summary().sentence().task()


@dataclass
class Request:
    """Request that is built one artefact at a time, together with its truth."""

    draw: Draw
    title: str
    numbers: dict[str, int]
    """Item -> its number, in the order of the table."""
    prompt: list[str]
    oracle: list[ToolCall]
    changes: list[Change] = field(default_factory=list)
    truth: dict[str, Any] = field(default_factory=dict)
    final: str = "Done."

    def bars(self) -> Request:
        return self._chart("draw_bar_chart", charts.bar_chart, wording.BARS)

    def line(self) -> Request:
        return self._chart("draw_line_chart", charts.line_chart, wording.LINES)

    def _chart(self, tool: str, drawn: Any, phrasings: tuple[str, ...]) -> Request:
        shown = {
            "title": self.title,
            "labels": list(self.numbers),
            "values": list(self.numbers.values()),
        }
        self.prompt.append(wording.say(self.draw, phrasings, title=self.title))
        self._write(ToolCall(tool, {"path": "chart.svg", **shown}), "chart.svg")
        self.truth["chart"] = drawn(**shown)
        return self

    def summary(self) -> Request:
        keys = self.draw.rng.sample(list(KEYS), 2)
        spoken = " and ".join(KEYS[key][0] for key in keys)
        truth = {key: KEYS[key][1](self.numbers) for key in keys}
        self.prompt.append(wording.say(self.draw, wording.SUMMARY, keys=spoken))
        self._write(
            ToolCall("write_file", {"path": "summary.json", "text": json.dumps(truth)}),
            "summary.json",
        )
        self.truth["summary"] = truth
        return self

    def sentence(self) -> Request:
        most = self.draw.rng.choice(("most", "least"))
        item = (max if most == "most" else min)(self.numbers, key=self.numbers.__getitem__)
        self.prompt.append(wording.say(self.draw, wording.SENTENCE, most=most))
        self.final = f"{item} has the {most}: {self.numbers[item]}."
        others = [pair for pair in self.numbers.items() if pair[0] != item]
        self.truth["sentence"] = {
            "says": [item, self.numbers[item]],
            "never": [word for pair in others for word in pair],
        }
        return self

    def _write(self, call: ToolCall, path: str) -> None:
        self.oracle.append(call)
        self.changes.append(Change.insert("files", path=path))

    def task(self) -> Task:
        prompt = " ".join(self.prompt)
        return self.draw.task(
            prompt=prompt, oracle=self.oracle, final=self.final, changes=self.changes, **self.truth
        )


def _listed(draw: Draw) -> Request:
    """Return a request that contains its numbers."""
    kind = draw.rng.choice(KINDS[draw.split])
    column = draw.rng.choice(COLUMNS)
    items = draw.rng.sample(ITEMS[kind], draw.rng.randint(3, 5))
    numbers = dict(zip(items, draw.rng.sample(range(11, 99), len(items)), strict=True))
    pairs = ", ".join(f"{item} {number}" for item, number in numbers.items())
    spoken = wording.say(draw, wording.LISTED, kind=kind, column=column, pairs=pairs)
    return Request(draw, _title(kind, column), numbers, [spoken], [])


def _filed(draw: Draw) -> Request:
    """Return a request with its numbers in a file."""
    kind = draw.rng.choice(KINDS[draw.split])
    column = draw.rng.choice(COLUMNS)
    file = f"{kind}.csv"
    header, *rows = [line.split(",") for line in draw.files[file].splitlines()]
    numbers = {row[0]: int(row[header.index(column)]) for row in rows}
    spoken = wording.say(draw, wording.FILED, column=column, file=file)
    return Request(
        draw, _title(kind, column), numbers, [spoken], [ToolCall("read_file", {"path": file})]
    )


def _title(kind: str, column: str) -> str:
    return f"{kind.capitalize()} {column}"
