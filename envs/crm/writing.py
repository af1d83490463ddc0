"""Write tools of the CRM. They check types, ids and values, but not the policy.

Following the policy is part of the model's task.
"""

import re
import sqlite3
from typing import Literal

import records


def update_contact(
    db: sqlite3.Connection,
    now: str,
    contact: str,
    field: Literal["phone", "email", "title"],
    value: str,
) -> str:
    """Change a contact

    Args:
        contact: id such as C417.
        field: what to change.
        value: the new value.
    """
    return _update(db, now, "contacts", contact, field, _text(value, field))


def update_deal(
    db: sqlite3.Connection,
    now: str,
    deal: str,
    field: Literal["stage", "amount", "close_date"],
    value: str,
) -> str:
    """Change a deal

    Args:
        deal: id such as D305.
        field: what to change.
        value: a stage (new, qualified, proposal, negotiation, won, lost), whole dollars, or a date
            YYYY-MM-DD.
    """
    check = {"stage": _stage, "amount": _amount, "close_date": _date}[field]
    return _update(db, now, "deals", deal, field, check(value))


def update_case(
    db: sqlite3.Connection, now: str, case: str, field: Literal["priority", "status"], value: str
) -> str:
    """Change a case

    Args:
        case: id such as K290.
        field: what to change.
        value: a priority (low, normal, high, urgent) or a status (open, waiting, solved).
    """
    allowed = {
        "priority": ("low", "normal", "high", "urgent"),
        "status": ("open", "waiting", "solved"),
    }[field]
    return _update(db, now, "cases", case, field, _one_of(value, allowed, field))


def assign_owner(db: sqlite3.Connection, now: str, record: str, user: str) -> str:
    """Give a record to a colleague

    Args:
        record: id of an account, deal, case or lead.
        user: id such as U17.
    """
    table = records.table_of(record)
    if table not in ("accounts", "deals", "cases", "leads"):
        raise ValueError(f"{table} have no owner; accounts, deals, cases and leads do")
    records.fetch(db, "users", user)
    return _update(db, now, table, record, "owner_id", user)


def add_note(db: sqlite3.Connection, now: str, record: str, text: str) -> str:
    """Write a note on a record

    Args:
        record: id such as A38, C417 or D305.
        text: the note.
    """
    records.fetch(db, records.table_of(record), record)
    records.insert(db, "notes", "N", record_id=record, text=_text(text, "text"), created_at=now)
    return "ok"


def add_task(
    db: sqlite3.Connection, now: str, record: str, title: str, due: str, owner: str = ""
) -> str:
    """Create a task

    Args:
        record: id of what it is about, such as C417.
        title: what to do.
        due: date YYYY-MM-DD.
        owner: id of the colleague who does it, if named.
    """
    records.fetch(db, records.table_of(record), record)
    if owner:
        records.fetch(db, "users", owner)
    records.insert(
        db,
        "tasks",
        "T",
        record_id=record,
        title=_text(title, "title"),
        due=_date(due),
        owner_id=owner or None,
        created_at=now,
    )
    return "ok"


def log_call(
    db: sqlite3.Connection,
    now: str,
    contact: str,
    outcome: Literal["reached", "voicemail", "busy", "callback"],
) -> str:
    """Record a phone call

    Args:
        contact: id such as C417.
        outcome: how it went.
    """
    records.fetch(db, "contacts", contact)
    records.insert(db, "calls", "H", contact_id=contact, outcome=outcome, created_at=now)
    return "ok"


def send_email(
    db: sqlite3.Connection,
    now: str,
    contact: str,
    template: Literal["welcome", "invoice", "newsletter", "renewal", "survey"],
) -> str:
    """E-mail a contact

    Args:
        contact: id such as C417.
        template: which text to send.
    """
    records.fetch(db, "contacts", contact)
    records.insert(db, "emails", "E", contact_id=contact, template=template, created_at=now)
    return "ok"


def create_quote(
    db: sqlite3.Connection, now: str, deal: str, product: str, quantity: int, discount: int = 0
) -> str:
    """Offer a product for a deal

    Args:
        deal: id such as D305.
        product: id such as P24.
        quantity: pieces.
        discount: percent.
    """
    records.fetch(db, "deals", deal)
    records.fetch(db, "products", product)
    if quantity < 1 or not 0 <= discount <= 100:
        raise ValueError(
            f"quantity must be at least 1 and discount 0 to 100, got {quantity} and {discount}"
        )
    records.insert(
        db,
        "quotes",
        "Q",
        deal_id=deal,
        product_id=product,
        quantity=quantity,
        discount=discount,
        status="sent",
        created_at=now,
    )
    return "ok"


def convert_lead(db: sqlite3.Connection, now: str, lead: str, account: str) -> str:
    """Make a lead a contact of an account

    Args:
        lead: id such as L52.
        account: id such as A38.
    """
    row = records.fetch(db, "leads", lead)
    records.fetch(db, "accounts", account)
    if row["status"] == "converted":
        raise ValueError(f"{lead} is already converted")
    person = {
        "account_id": account,
        "name": row["name"],
        "title": "",
        "email": row["email"],
        "phone": "",
    }
    contact = records.insert(db, "contacts", "C", **person, do_not_contact=0, updated_at=now)
    _update(db, now, "leads", lead, "status", "converted")
    return f"ok: {contact}"


def merge_contacts(db: sqlite3.Connection, now: str, keep: str, drop: str) -> str:
    """Merge two entries of one person

    Args:
        keep: id of the entry that stays.
        drop: id of the entry that is deleted; its deals move to the other.
    """
    records.fetch(db, "contacts", keep)
    records.fetch(db, "contacts", drop)
    if keep == drop:
        raise ValueError("keep and drop are the same entry")
    db.execute(
        "UPDATE deals SET contact_id = ?, updated_at = ? WHERE contact_id = ?", (keep, now, drop)
    )
    for table, column in (
        ("calls", "contact_id"),
        ("emails", "contact_id"),
        ("notes", "record_id"),
        ("tasks", "record_id"),
    ):
        db.execute(f"UPDATE {table} SET {column} = ? WHERE {column} = ?", (keep, drop))
    db.execute("DELETE FROM contacts WHERE id = ?", (drop,))
    return "ok"


def close_request(
    db: sqlite3.Connection,
    now: str,
    outcome: Literal["done", "answered", "partly", "refused"],
    reason: str = "",
    answer: str = "",
) -> str:
    """End every request with this; a refusal names its rule

    Args:
        outcome: how it ended.
        reason: number of the rule that forbade all or part of it, such as R27.
        answer: the bare number, name, id or date that was asked for.
    """
    if outcome in ("partly", "refused") and not re.fullmatch(r"R\d+", reason.strip()):
        raise ValueError("reason must be the number of a rule from get_policy, such as R27")
    if outcome == "answered" and not answer.strip():
        raise ValueError("answer is empty")
    reason = reason.strip()
    answer = answer.strip()
    records.insert(
        db, "requests", "X", outcome=outcome, reason=reason, answer=_bare(answer), closed_at=now
    )
    return "closed"


def _update(db: sqlite3.Connection, now: str, table: str, key: str, column: str, value) -> str:
    records.fetch(db, table, key)
    db.execute(f"UPDATE {table} SET {column} = ?, updated_at = ? WHERE id = ?", (value, now, key))
    return "ok"


def _bare(answer: str) -> str:
    """Normalize an amount: `$48,200` -> `48200`. Any other answer is returned unchanged."""
    digits = answer.removeprefix("$").replace(",", "")
    return digits if re.fullmatch(r"\d+", digits) else answer


def _text(value: str, name: str) -> str:
    if not value.strip():
        raise ValueError(f"{name} is empty")
    return " ".join(value.split())


def _one_of(value: str, allowed: tuple[str, ...], name: str) -> str:
    lowered = value.strip().lower()
    if lowered not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got '{value}'")
    return lowered


def _stage(value: str) -> str:
    return _one_of(value, ("new", "qualified", "proposal", "negotiation", "won", "lost"), "stage")


def _amount(value: str) -> int:
    digits = value.strip().removeprefix("$").replace(",", "")
    if not re.fullmatch(r"\d{1,9}", digits):
        raise ValueError(f"amount must be whole dollars such as 12500, got '{value}'")
    return int(digits)


def _date(value: str) -> str:
    if not re.fullmatch(r"20\d\d-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])", value.strip()):
        raise ValueError(f"a date looks like 2026-03-09, got '{value}'")
    return value.strip()
