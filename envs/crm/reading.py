"""Read-only tools of the CRM: paged searches, single records, notes, and the written policy.

Results are short, one line per row, because every token costs a small model time.
"""

import sqlite3
from typing import Literal

import records

Topic = Literal[
    "discounts", "closing", "amounts", "contacting", "merging", "routing", "unknown", "notes"
]


def find_contacts(db: sqlite3.Connection, query: str, page: int = 1) -> str:
    """Find contacts by name, e-mail or account id

    Args:
        query: part of a name or e-mail, or an account id such as A38.
        page: page of the result, from 1.
    """
    rows = db.execute(
        "SELECT * FROM contacts WHERE name LIKE ? ESCAPE '!' OR email LIKE ? ESCAPE '!' OR "
        "account_id = ? ORDER BY name, id",
        (records.like(query), records.like(query), query.strip()),
    )
    return records.page_of(
        [f"{row['id']}: {row['name']}, {row['title']}, {row['account_id']}" for row in rows], page
    )


def find_accounts(db: sqlite3.Connection, query: str, page: int = 1) -> str:
    """Find accounts by name, city or tier

    Args:
        query: part of a name or city, or a tier.
        page: page of the result, from 1.
    """
    pattern = records.like(query)
    rows = db.execute(
        "SELECT * FROM accounts WHERE name LIKE ? ESCAPE '!' OR city LIKE ? ESCAPE '!' OR tier "
        "= lower(?) ORDER BY name, id",
        (pattern, pattern, query.strip()),
    )
    return records.page_of([f"{row['id']}: {row['name']}, {row['city']}" for row in rows], page)


def find_deals(db: sqlite3.Connection, query: str, page: int = 1) -> str:
    """Find deals by name, account id or owner id

    Args:
        query: part of a name, an account id such as A38 or a user id such as U17.
        page: page of the result, from 1.
    """
    rows = db.execute(
        "SELECT * FROM deals WHERE name LIKE ? ESCAPE '!' OR account_id = ? OR owner_id = ? "
        "ORDER BY name, id",
        (records.like(query), query.strip(), query.strip()),
    )
    return records.page_of(
        [f"{row['id']}: {row['name']}, {row['stage']}, {row['amount']}" for row in rows], page
    )


def find_leads(db: sqlite3.Connection, query: str, page: int = 1) -> str:
    """Find leads by name, company or status

    Args:
        query: part of a name or company, or a status.
        page: page of the result, from 1.
    """
    pattern = records.like(query)
    rows = db.execute(
        "SELECT * FROM leads WHERE name LIKE ? ESCAPE '!' OR company LIKE ? ESCAPE '!' OR "
        "status = lower(?) ORDER BY name, id",
        (pattern, pattern, query.strip()),
    )
    return records.page_of(
        [f"{row['id']}: {row['name']}, {row['company']}, {row['status']}" for row in rows], page
    )


def find_cases(db: sqlite3.Connection, query: str, page: int = 1) -> str:
    """Find cases by account id or subject

    Args:
        query: an account id such as A38 or part of a subject.
        page: page of the result, from 1.
    """
    rows = db.execute(
        "SELECT * FROM cases WHERE account_id = ? OR subject LIKE ? ESCAPE '!' ORDER BY id",
        (query.strip(), records.like(query)),
    )
    return records.page_of(
        [f"{row['id']}: {row['subject']}, {row['account_id']}, {row['status']}" for row in rows],
        page,
    )


def find_products(db: sqlite3.Connection, query: str, page: int = 1) -> str:
    """Find products by name

    Args:
        query: part of a name.
        page: page of the result, from 1.
    """
    rows = db.execute(
        "SELECT * FROM products WHERE name LIKE ? ESCAPE '!' ORDER BY name, id",
        (records.like(query),),
    )
    return records.page_of([f"{row['id']}: {row['name']}, {row['price']}" for row in rows], page)


def find_users(db: sqlite3.Connection, query: str, page: int = 1) -> str:
    """Find colleagues by name, role or region

    Args:
        query: part of a name, a role or a region.
        page: page of the result, from 1.
    """
    rows = db.execute(
        "SELECT * FROM users WHERE name LIKE ? ESCAPE '!' OR role = lower(?) OR region = "
        "lower(?) ORDER BY name, id",
        (records.like(query), query.strip(), query.strip()),
    )
    return records.page_of(
        [f"{row['id']}: {row['name']}, {row['role']}, {row['region']}" for row in rows], page
    )


def get_record(db: sqlite3.Connection, record: str) -> str:
    """Show all fields of one record

    Args:
        record: an id such as A38, C417, D305, K290, L52, P24, Q811 or U17.
    """
    row = records.fetch(db, records.table_of(record), record)
    hidden = ("id", "updated_at", "created_at")
    filled = {
        key: "none" if value in (None, "") else value
        for key, value in dict(row).items()
        if key not in hidden
    }
    shown = [f"{key.removesuffix('_id')}: {value}" for key, value in filled.items()]
    if record[0] == "D":
        for quote in db.execute(
            "SELECT id, discount, status FROM quotes WHERE deal_id = ? ORDER BY id", (record,)
        ):
            shown.append(f"quote {quote['id']}: {quote['discount']}% {quote['status']}")
        for approval in db.execute(
            "SELECT id, discount FROM approvals WHERE deal_id = ? ORDER BY id", (record,)
        ):
            shown.append(f"approval {approval['id']}: {approval['discount']}%")
    return "; ".join(shown)


def list_notes(db: sqlite3.Connection, record: str, page: int = 1) -> str:
    """Show the notes of a record, newest first

    Args:
        record: an id such as C417.
        page: page of the result, from 1.
    """
    records.fetch(db, records.table_of(record), record)
    rows = db.execute(
        "SELECT * FROM notes WHERE record_id = ? ORDER BY created_at DESC, id", (record,)
    )
    return records.page_of([f"{row['created_at'][:10]}: {row['text']}" for row in rows], page)


def get_policy(db: sqlite3.Connection, topic: Topic) -> str:
    """Read the written rule that must be obeyed

    Args:
        topic: what the rule is about.
    """
    row = db.execute("SELECT rule, text FROM policies WHERE topic = ?", (topic,)).fetchone()
    return f"{row['rule']}: {row['text']}"
