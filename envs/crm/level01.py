"""Levels L0 and L1 of the CRM: one write with the id given, or after one lookup by name.

All tasks offer the same five tools, so that they share one system prompt and its prefix cache.
"""

from __future__ import annotations

import names
import wording
from parts import NEXT_STAGES, find, fresh, fresh_phone, lone_contact

from envgym import Change, Draw, Task, ToolCall, template

TOOLS = ("find_contacts", "update_contact", "update_deal", "add_note", "log_call")
EARLY = "('new', 'qualified', 'proposal')"
"""SQL list of the stages that have a next stage."""
OUTCOMES = ("reached", "voicemail", "busy", "callback")


@template(level="L0")
def set_phone(draw: Draw) -> Task:
    return _set_contact(draw, _any_contact(draw), "phone", fresh_phone(draw), wording.PHONE)


@template(level="L0")
def set_title(draw: Draw) -> Task:
    return _set_contact(
        draw, _any_contact(draw), "title", fresh(draw, names.job_title), wording.TITLE
    )


@template(level="L0", splits=("test",))
def set_email(draw: Draw) -> Task:
    return _set_email(draw, _any_contact(draw))


@template(level="L0")
def set_stage(draw: Draw) -> Task:
    return _set_stage(draw, _any_deal(draw))


@template(level="L0")
def set_amount(draw: Draw) -> Task:
    return _set_amount(draw, _any_deal(draw))


@template(level="L0")
def note_on_record(draw: Draw) -> Task:
    query = draw.rng.choice(
        ("SELECT id FROM contacts", "SELECT id FROM deals", "SELECT id FROM accounts")
    )
    record = draw.row(query)["id"]
    return _note(draw, (record, record, ()))


@template(level="L0")
def log_one_call(draw: Draw) -> Task:
    return _log_call(draw, _any_contact(draw))


@template(level="L1")
def phone_by_name(draw: Draw) -> Task:
    return _set_contact(draw, _named_contact(draw), "phone", fresh_phone(draw), wording.PHONE)


@template(level="L1")
def title_by_name(draw: Draw) -> Task:
    return _set_contact(
        draw, _named_contact(draw), "title", fresh(draw, names.job_title), wording.TITLE
    )


@template(level="L1", splits=("test",))
def email_by_name(draw: Draw) -> Task:
    return _set_email(draw, _named_contact(draw))


@template(level="L1")
def note_by_name(draw: Draw) -> Task:
    return _note(draw, _named_contact(draw))


@template(level="L1")
def call_by_name(draw: Draw) -> Task:
    return _log_call(draw, _named_contact(draw))


Subject = tuple[str, str, tuple[ToolCall, ...]]
"""Id of a record, its wording in the request, and the lookups that find it."""


def _any_contact(draw: Draw) -> Subject:
    contact = draw.row("SELECT id FROM contacts ORDER BY id")["id"]
    return contact, draw.rng.choice((contact, contact, f"contact {contact}")), ()


def _any_deal(draw: Draw) -> Subject:
    deal = draw.row(f"SELECT id FROM deals WHERE stage IN {EARLY} ORDER BY id")["id"]
    return deal, draw.rng.choice((deal, deal, f"deal {deal}")), ()


def _named_contact(draw: Draw) -> Subject:
    contact = lone_contact(draw)
    return contact["id"], contact["name"], (find("contacts", contact["name"]),)


def _task(draw: Draw, subject: Subject, prompt: str, call: ToolCall, change: Change) -> Task:
    return draw.task(prompt=prompt, oracle=[*subject[2], call], changes=[change], tools=TOOLS)


def _set_contact(
    draw: Draw, subject: Subject, field: str, value: str, phrasings: tuple[str, ...]
) -> Task:
    contact, spoken, _ = subject
    prompt = wording.say(draw, phrasings, who=spoken, value=value)
    call = ToolCall("update_contact", {"contact": contact, "field": field, "value": value})
    return _task(draw, subject, prompt, call, Change.update("contacts", contact, **{field: value}))


def _set_email(draw: Draw, subject: Subject) -> Task:
    value = names.email_address(names.person_name(draw.rng), names.company_name(draw.rng))
    return _set_contact(draw, subject, "email", value, wording.EMAIL)


def _set_deal(
    draw: Draw, subject: Subject, field: str, value: str, phrasings: tuple[str, ...]
) -> Task:
    deal, spoken, _ = subject
    prompt = wording.say(draw, phrasings, what=spoken, value=value)
    call = ToolCall("update_deal", {"deal": deal, "field": field, "value": value})
    return _task(
        draw,
        subject,
        prompt,
        call,
        Change.update("deals", deal, **{field: int(value) if field == "amount" else value}),
    )


def _set_stage(draw: Draw, subject: Subject) -> Task:
    stage = draw.row("SELECT stage FROM deals WHERE id = ?", subject[0])["stage"]
    return _set_deal(draw, subject, "stage", draw.rng.choice(NEXT_STAGES[stage]), wording.STAGE)


def _set_amount(draw: Draw, subject: Subject) -> Task:
    old = draw.row("SELECT amount FROM deals WHERE id = ?", subject[0])["amount"]
    value = draw.rng.choice([amount for amount in range(500, 40_000, 50) if amount != old])
    return _set_deal(draw, subject, "amount", str(value), wording.AMOUNT)


def _note(draw: Draw, subject: Subject) -> Task:
    record, spoken, _ = subject
    text = wording.remark(draw.rng)
    prompt = wording.say(draw, wording.NOTE, who=spoken, value=text)
    call = ToolCall("add_note", {"record": record, "text": text})
    return _task(draw, subject, prompt, call, Change.insert("notes", record_id=record, text=text))


def _log_call(draw: Draw, subject: Subject) -> Task:
    contact, spoken, _ = subject
    outcome = draw.rng.choice(OUTCOMES)
    prompt = wording.say(draw, wording.CALL, who=spoken, value=outcome)
    call = ToolCall("log_call", {"contact": contact, "outcome": outcome})
    return _task(
        draw, subject, prompt, call, Change.insert("calls", contact_id=contact, outcome=outcome)
    )
