"""What templates of all levels share: rows that a search finds alone, fresh values, the end of a request."""

from __future__ import annotations

from datetime import date, timedelta

import crm_names as names

from envgym import Change, Draw, ToolCall

NEXT_STAGES = {
    "new": ("qualified", "lost"),
    "qualified": ("proposal", "lost"),
    "proposal": ("negotiation", "lost"),
}
"""Where a deal may go without a rule standing against it; `won` is for level L3."""
OPEN = "('new', 'qualified', 'proposal', 'negotiation')"
"""SQL list of the stages in which a deal is still open."""
TODAY = date(2026, 3, 2)


def lone_contact(draw: Draw, where: str = "1") -> dict:
    """A contact whose name, searched for, finds nobody else. `where` narrows the choice; the row is called `c`."""
    found_alone = "1 = (SELECT count(*) FROM contacts WHERE instr(lower(name), lower(c.name)))"
    return draw.row(f"SELECT * FROM contacts AS c WHERE {found_alone} AND {where} ORDER BY id")


def lone_deal(draw: Draw, where: str = f"stage IN {OPEN}") -> dict:
    """A deal whose name, searched for, finds no other. `where` narrows the choice; the row is called `d`."""
    found_alone = "1 = (SELECT count(*) FROM deals WHERE instr(lower(name), lower(d.name)))"
    return draw.row(f"SELECT * FROM deals AS d WHERE {found_alone} AND {where} ORDER BY id")


def lone_account(draw: Draw, where: str = "1") -> dict:
    """An account whose name, searched for, finds no other. `where` narrows the choice; the row is called `a`."""
    found_alone = "1 = (SELECT count(*) FROM accounts WHERE instr(lower(name), lower(a.name)))"
    return draw.row(f"SELECT * FROM accounts AS a WHERE {found_alone} AND {where} ORDER BY id")


def fresh(draw: Draw, make) -> str:
    """A phone or title that no contact has yet, so that setting it always changes the row."""
    while True:
        value = make(draw.rng)
        if not draw.rows("SELECT 1 FROM contacts WHERE phone = ? OR title = ?", value, value):
            return value


def fresh_phone(draw: Draw) -> str:
    return fresh(draw, names.phone_number)


def due_date(draw: Draw) -> str:
    """A day in the next ten weeks."""
    return (TODAY + timedelta(days=draw.rng.randint(1, 70))).isoformat()


def find(table: str, query: str, page: int = 1) -> ToolCall:
    """A search; the first page is not spelled out."""
    return ToolCall(
        f"find_{table}", {"query": query} if page == 1 else {"query": query, "page": page}
    )


def get(record: str) -> ToolCall:
    return ToolCall("get_record", {"record": record})


def policy(topic: str) -> ToolCall:
    return ToolCall("get_policy", {"topic": topic})


def rule(draw: Draw, topic: str) -> dict:
    """The world's rule on a topic: its number under `rule`, its limits under `low` and `high`."""
    return draw.row("SELECT rule, low, high FROM policies WHERE topic = ?", topic)


End = tuple[ToolCall, Change]
"""How a request is closed, and the row that must be there then."""


def done() -> End:
    return ToolCall("close_request", {"outcome": "done"}), Change.insert("requests", outcome="done")


def answered(answer: object) -> End:
    call = ToolCall("close_request", {"outcome": "answered", "answer": str(answer)})
    return call, Change.insert("requests", outcome="answered", answer=str(answer))


def refused(draw: Draw, topic: str, *, outcome: str = "refused") -> End:
    """Refused, or `partly`, with the number of the world's rule on the topic."""
    reason = rule(draw, topic)["rule"]
    call = ToolCall("close_request", {"outcome": outcome, "reason": reason})
    return call, Change.insert("requests", outcome=outcome, reason=reason)
