"""Tasks of the notes: with the id given (L0), and after one lookup by title (L1).

The rows come from the server's `dump`.
"""

from __future__ import annotations

import world

from envgym import Change, Draw, Task, ToolCall, template

SET = (
    "Set the {field} of {what} to {value}.",
    "Change the {field} of {what}: {value}.",
    "{what}: new {field} {value}.",
    "The {field} of {what} is now {value}.",
    "Please put {value} as {field} of {what}.",
    "{what} needs the {field} {value}.",
    "Make {value} the {field} of {what}.",
    "Update {what}, {field} {value}.",
    "For {what}, the {field} should be {value}.",
    "{value} is the right {field} for {what}.",
)
REMOVE = (
    "Remove {what}.",
    "Delete {what}.",
    "{what} can go.",
    "Get rid of {what}.",
    "We no longer need {what}.",
    "Please drop {what}.",
    "{what} is not needed any more.",
    "Take out {what}.",
    "Throw {what} away.",
    "Let {what} disappear.",
)
EDIT = (
    "Replace the text of {what} by: {value}.",
    "{what} should say: {value}.",
    "Let {what} read: {value}.",
    "Rewrite {what} as: {value}.",
    "New text for {what}: {value}.",
    "The text of {what} is now: {value}.",
    "Change the words of {what} to: {value}.",
    "Put this into {what}: {value}.",
    "In {what} write: {value}.",
    "Text of {what} becomes: {value}.",
)
NOTE = (
    "Note down under {title}: {value}.",
    "Write a note {title}: {value}.",
    "New note, title {title}, text {value}.",
    "Add a note called {title}: {value}.",
    "Make a note {title} that says {value}.",
    "Put up a note {title} with {value}.",
    "Please note for {title}: {value}.",
    "A note {title}, please: {value}.",
    "Keep a note {title}: {value}.",
    "Save under {title}: {value}.",
)
EVENT = (
    "Add {title} on {day} at {time}.",
    "Plan {title} for {day}, {time}.",
    "New event {title}, {day} {time}.",
    "Put {title} on {day} at {time}.",
    "Schedule {title}: {day}, {time}.",
    "{title} will be on {day} at {time}.",
    "Enter {title} for {day} at {time}.",
    "We have {title} on {day}, {time}.",
    "Book {title} on {day}, {time}.",
    "Calendar: {title}, {day}, {time}.",
)

Subject = tuple[dict, str, tuple[ToolCall, ...]]
"""Row, its wording in the request, and the lookup that finds it."""


@template(level="L0")
def set_event(draw: Draw) -> Task:
    return _set(draw, _by_id(draw, "events"))


@template(level="L0")
def edit_note(draw: Draw) -> Task:
    return _edit(draw, _by_id(draw, "notes"))


@template(level="L0")
def delete_note(draw: Draw) -> Task:
    return _remove(draw, _by_id(draw, "notes"), "notes")


@template(level="L0", splits=("test",))
def cancel_event(draw: Draw) -> Task:
    return _remove(draw, _by_id(draw, "events"), "events")


@template(level="L0")
def write_note(draw: Draw) -> Task:
    values = {"title": world.title(draw.rng), "text": world.text(draw.rng)}
    prompt = _say(draw, NOTE, title=values["title"], value=values["text"])
    return draw.task(
        prompt=prompt,
        oracle=[ToolCall("add_note", values)],
        changes=[Change.insert("notes", **values)],
    )


@template(level="L0")
def plan_event(draw: Draw) -> Task:
    values = {
        "title": world.title(draw.rng),
        "day": world.day(draw.rng),
        "time": world.time(draw.rng),
    }
    prompt = _say(draw, EVENT, **values)
    return draw.task(
        prompt=prompt,
        oracle=[ToolCall("add_event", values)],
        changes=[Change.insert("events", **values)],
    )


@template(level="L1")
def set_event_by_title(draw: Draw) -> Task:
    return _set(draw, _by_title(draw, "events"))


@template(level="L1")
def edit_note_by_title(draw: Draw) -> Task:
    return _edit(draw, _by_title(draw, "notes"))


@template(level="L1", splits=("test",))
def cancel_event_by_title(draw: Draw) -> Task:
    return _remove(draw, _by_title(draw, "events"), "events")


@template(level="L1")
def delete_note_by_title(draw: Draw) -> Task:
    return _remove(draw, _by_title(draw, "notes"), "notes")


def _by_id(draw: Draw, table: str) -> Subject:
    row = draw.row(f"SELECT * FROM {table} ORDER BY id")
    return row, draw.rng.choice((row["id"], f"{table[:-1]} {row['id']}")), ()


def _by_title(draw: Draw, table: str) -> Subject:
    row = draw.row(f"SELECT * FROM {table} ORDER BY id")
    return (
        row,
        f"the {table[:-1]} {row['title']}",
        (ToolCall(f"find_{table}", {"query": row["title"]}),),
    )


def _say(draw: Draw, phrasings: tuple[str, ...], **slots: str) -> str:
    text = draw.wording(phrasings).format(**slots)
    return text[0].upper() + text[1:]


def _set(draw: Draw, subject: Subject) -> Task:
    row, what, before = subject
    field = draw.rng.choice(("day", "time", "room"))
    make = {"day": world.day, "time": world.time, "room": world.room}[field]
    value = next(value for value in iter(lambda: make(draw.rng), "") if value != row[field])
    call = ToolCall("set_event", {"event": row["id"], "field": field, "value": value})
    prompt = _say(draw, SET, what=what, field=field, value=value)
    return draw.task(
        prompt=prompt,
        oracle=[*before, call],
        changes=[Change.update("events", row["id"], **{field: value})],
    )


def _edit(draw: Draw, subject: Subject) -> Task:
    row, what, before = subject
    value = next(value for value in iter(lambda: world.text(draw.rng), "") if value != row["text"])
    call = ToolCall("edit_note", {"note": row["id"], "text": value})
    prompt = _say(draw, EDIT, what=what, value=value)
    return draw.task(
        prompt=prompt,
        oracle=[*before, call],
        changes=[Change.update("notes", row["id"], text=value)],
    )


def _remove(draw: Draw, subject: Subject, table: str) -> Task:
    row, what, before = subject
    tool = {"notes": "delete_note", "events": "cancel_event"}[table]
    call = ToolCall(tool, {table[:-1]: row["id"]})
    return draw.task(
        prompt=_say(draw, REMOVE, what=what),
        oracle=[*before, call],
        changes=[Change.delete(table, row["id"])],
    )
