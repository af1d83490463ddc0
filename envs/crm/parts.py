"""Helpers of all levels' templates: uniquely named rows, fresh values, the end of a request."""

from __future__ import annotations

from datetime import date, timedelta

import names

from envgym import Change, Draw, ToolCall

NEXT_STAGES = {
    "new": ("qualified", "lost"),
    "qualified": ("proposal", "lost"),
    "proposal": ("negotiation", "lost"),
}
"""Stage -> stages that no rule restricts; `won` is for level L3."""
OPEN = "('new', 'qualified', 'proposal', 'negotiation')"
"""SQL list of the stages of an open deal."""
TODAY = date(2026, 3, 2)


def lone_contact(draw: Draw, where: str = "1") -> dict:
    """Draw a contact that a search for its name finds alone.

    `where` is an SQL condition on the row `c`.
    """
    found_alone = "1 = (SELECT count(*) FROM contacts WHERE instr(lower(name), lower(c.name)))"
    return draw.row(f"SELECT * FROM contacts AS c WHERE {found_alone} AND {where} ORDER BY id")


def lone_deal(draw: Draw, where: str = f"stage IN {OPEN}") -> dict:
    """Draw a deal that a search for its name finds alone.

    `where` is an SQL condition on the row `d`.
    """
    found_alone = "1 = (SELECT count(*) FROM deals WHERE instr(lower(name), lower(d.name)))"
    return draw.row(f"SELECT * FROM deals AS d WHERE {found_alone} AND {where} ORDER BY id")


def lone_account(draw: Draw, where: str = "1") -> dict:
    """Draw an account that a search for its name finds alone.

    `where` is an SQL condition on the row `a`.
    """
    found_alone = "1 = (SELECT count(*) FROM accounts WHERE instr(lower(name), lower(a.name)))"
    return draw.row(f"SELECT * FROM accounts AS a WHERE {found_alone} AND {where} ORDER BY id")


def fresh(draw: Draw, make) -> str:
    """Draw a phone or title that no contact has, so that setting it always changes the row."""
    while True:
        value = make(draw.rng)
        if not draw.rows("SELECT 1 FROM contacts WHERE phone = ? OR title = ?", value, value):
            return value


def fresh_phone(draw: Draw) -> str:
    return fresh(draw, names.phone_number)


def due_date(draw: Draw) -> str:
    """Draw a day within the next ten weeks."""
    return (TODAY + timedelta(days=draw.rng.randint(1, 70))).isoformat()


def find(table: str, query: str, page: int = 1) -> ToolCall:
    """Return a search call; page 1 is the default and is omitted."""
    return ToolCall(
        f"find_{table}", {"query": query} if page == 1 else {"query": query, "page": page}
    )


def get(record: str) -> ToolCall:
    return ToolCall("get_record", {"record": record})


def policy(topic: str) -> ToolCall:
    return ToolCall("get_policy", {"topic": topic})


def rule(draw: Draw, topic: str) -> dict:
    """Return the world's rule on a topic: its number `rule` and its limits `low` and `high`."""
    return draw.row("SELECT rule, low, high FROM policies WHERE topic = ?", topic)


End = tuple[ToolCall, Change]
"""Call that closes a request, and the expected row."""


def done() -> End:
    return ToolCall("close_request", {"outcome": "done"}), Change.insert("requests", outcome="done")


def answered(answer: object) -> End:
    call = ToolCall("close_request", {"outcome": "answered", "answer": str(answer)})
    return call, Change.insert("requests", outcome="answered", answer=str(answer))


def refused(draw: Draw, topic: str, *, outcome: str = "refused") -> End:
    """Return the end of a refused or partly refused request, with the number of the rule."""
    reason = rule(draw, topic)["rule"]
    call = ToolCall("close_request", {"outcome": outcome, "reason": reason})
    return call, Change.insert("requests", outcome=outcome, reason=reason)
