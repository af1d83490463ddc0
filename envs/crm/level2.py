"""Level L2 of the CRM: two or three lookups before the write, with all tools offered.

The world contains traps: people with equal names in two accounts, results on the second page, won
deals among the open ones. Each task ends with `close_request`; questions are answered with
`close_request(outcome="answered", answer=...)`.
"""

from __future__ import annotations

import phrases
from parts import (
    NEXT_STAGES,
    OPEN,
    TODAY,
    answered,
    done,
    due_date,
    find,
    fresh_phone,
    get,
    lone_account,
    lone_contact,
    lone_deal,
)
from wording import errand, remark, say

from envgym import Change, Draw, Task, ToolCall, template


def _closed_task(
    draw: Draw,
    prompt: str,
    calls: list[ToolCall],
    changes: list[Change],
    end: tuple[ToolCall, Change],
) -> Task:
    return draw.task(prompt=prompt, oracle=[*calls, end[0]], changes=[*changes, end[1]])


@template(level="L2")
def phone_of_namesake(draw: Draw) -> Task:
    """Change the phone of one of two people with equal names in different accounts."""
    contact = draw.row(
        "SELECT c.id, c.name, c.account_id, a.name AS account FROM contacts AS c JOIN accounts AS "
        "a ON a.id = c.account_id WHERE"
        " 2 = (SELECT count(DISTINCT account_id) FROM contacts WHERE name = c.name) ORDER BY c.id"
    )
    phone = fresh_phone(draw)
    prompt = say(
        draw, phrases.NAMESAKE, name=contact["name"], account=contact["account"], value=phone
    )
    calls = [
        find("contacts", contact["name"]),
        find("accounts", contact["account"]),
        ToolCall("update_contact", {"contact": contact["id"], "field": "phone", "value": phone}),
    ]
    return _closed_task(
        draw, prompt, calls, [Change.update("contacts", contact["id"], phone=phone)], done()
    )


@template(level="L2")
def task_for_owner(draw: Draw) -> Task:
    """Create a task for the owner of a deal."""
    deal = lone_deal(draw)
    title = errand(draw.rng)
    due = due_date(draw)
    prompt = say(draw, phrases.TASK_FOR_OWNER, deal=deal["name"], title=title, due=due)
    values = {"title": title, "due": due}
    calls = [
        find("deals", deal["name"]),
        get(deal["id"]),
        ToolCall("add_task", {"record": deal["id"], **values, "owner": deal["owner_id"]}),
    ]
    change = Change.insert("tasks", record_id=deal["id"], **values, owner_id=deal["owner_id"])
    return _closed_task(draw, prompt, calls, [change], done())


@template(level="L2")
def stage_on_second_page(draw: Draw) -> Task:
    """Move a deal that is listed on the second page of an account's ten deals."""
    account = lone_account(draw, "10 = (SELECT count(*) FROM deals WHERE account_id = a.id)")
    deals = draw.rows(
        "SELECT id, stage, amount FROM deals WHERE account_id = ? ORDER BY name, id", account["id"]
    )
    amounts = [deal["amount"] for deal in deals]
    late = [
        deal
        for deal in deals[5:]
        if deal["stage"] in NEXT_STAGES and amounts.count(deal["amount"]) == 1
    ]
    if not late:
        raise LookupError("no deal on the second page can move")
    deal = draw.rng.choice(late)
    stage = draw.rng.choice(NEXT_STAGES[deal["stage"]])
    prompt = say(
        draw, phrases.STAGE_BY_AMOUNT, account=account["name"], amount=deal["amount"], value=stage
    )
    calls = [
        find("accounts", account["name"]),
        find("deals", account["id"]),
        find("deals", account["id"], page=2),
        ToolCall("update_deal", {"deal": deal["id"], "field": "stage", "value": stage}),
    ]
    return _closed_task(
        draw, prompt, calls, [Change.update("deals", deal["id"], stage=stage)], done()
    )


@template(level="L2")
def hand_over_book(draw: Draw) -> Task:
    """Give three open deals of a leaving user to a colleague, but not the won one."""
    count = f"(SELECT count(*) FROM deals WHERE owner_id = u.id AND stage IN {OPEN})"
    leaver = draw.row(f"SELECT id, name FROM users AS u WHERE 3 = {count} ORDER BY id")
    heir = draw.row("SELECT id, name FROM users WHERE id != ? ORDER BY id", leaver["id"])
    deals = draw.rows(
        f"SELECT id FROM deals WHERE owner_id = ? AND stage IN {OPEN} ORDER BY name, id",
        leaver["id"],
    )
    prompt = say(draw, phrases.HAND_OVER, leaver=leaver["name"], heir=heir["name"])
    calls = [
        find("users", leaver["name"]),
        find("users", heir["name"]),
        find("deals", leaver["id"]),
    ]
    calls += [
        ToolCall("assign_owner", {"record": deal["id"], "user": heir["id"]}) for deal in deals
    ]
    changes = [Change.update("deals", deal["id"], owner_id=heir["id"]) for deal in deals]
    return _closed_task(draw, prompt, calls, changes, done())


@template(level="L2")
def convert_to_contact(draw: Draw) -> Task:
    """Convert a lead into a contact of an account that is given by name."""
    lead = draw.row(
        "SELECT id, name, company, email FROM leads WHERE status IN ('new', 'working') ORDER BY id"
    )
    account = lone_account(draw)
    prompt = say(
        draw, phrases.CONVERT, lead=lead["name"], company=lead["company"], account=account["name"]
    )
    calls = [
        find("leads", lead["name"]),
        find("accounts", account["name"]),
        ToolCall("convert_lead", {"lead": lead["id"], "account": account["id"]}),
    ]
    person = Change.insert(
        "contacts", account_id=account["id"], name=lead["name"], email=lead["email"]
    )
    return _closed_task(
        draw,
        prompt,
        calls,
        [Change.update("leads", lead["id"], status="converted"), person],
        done(),
    )


@template(level="L2")
def escalate_case(draw: Draw) -> Task:
    """Raise the priority of an account's only case."""
    account = lone_account(
        draw, "1 = (SELECT count(*) FROM cases WHERE account_id = a.id AND status != 'solved')"
    )
    case = draw.row("SELECT id, priority FROM cases WHERE account_id = ?", account["id"])
    higher = draw.rng.choice([level for level in ("high", "urgent") if level != case["priority"]])
    prompt = say(draw, phrases.ESCALATE, account=account["name"], value=higher)
    calls = [
        find("accounts", account["name"]),
        find("cases", account["id"]),
        ToolCall("update_case", {"case": case["id"], "field": "priority", "value": higher}),
    ]
    return _closed_task(
        draw, prompt, calls, [Change.update("cases", case["id"], priority=higher)], done()
    )


@template(level="L2")
def total_of_open_deals(draw: Draw) -> Task:
    """Ask for the total of an account's open deals, which sometimes fill two pages."""
    many = draw.rng.random() < 0.3
    account = lone_account(
        draw, f"{10 if many else 2} = (SELECT count(*) FROM deals WHERE account_id = a.id)"
    )
    total = draw.row(
        f"SELECT sum(amount) AS total FROM deals WHERE account_id = ? AND stage IN {OPEN}",
        account["id"],
    )["total"]
    if not total:
        raise LookupError("no open deal")
    calls = [find("accounts", account["name"]), find("deals", account["id"])]
    calls += [find("deals", account["id"], page=2)] if many else []
    return _closed_task(
        draw, say(draw, phrases.TOTAL, account=account["name"]), calls, [], answered(total)
    )


@template(level="L2")
def phone_behind_deal(draw: Draw) -> Task:
    """Ask for the phone of a deal's contact."""
    deal = lone_deal(draw)
    phone = draw.row("SELECT phone FROM contacts WHERE id = ?", deal["contact_id"])["phone"]
    calls = [find("deals", deal["name"]), get(deal["id"]), get(deal["contact_id"])]
    return _closed_task(
        draw, say(draw, phrases.PHONE_BEHIND, deal=deal["name"]), calls, [], answered(phone)
    )


@template(level="L2")
def owner_of_contact(draw: Draw) -> Task:
    """Ask for the name of the user who owns a contact's account."""
    contact = lone_contact(draw)
    owner = draw.row(
        "SELECT u.id, u.name FROM users AS u JOIN accounts AS a ON a.owner_id = u.id WHERE "
        "a.id = ?",
        contact["account_id"],
    )
    calls = [find("contacts", contact["name"]), get(contact["account_id"]), get(owner["id"])]
    return _closed_task(
        draw, say(draw, phrases.OWNER_OF, name=contact["name"]), calls, [], answered(owner["name"])
    )


@template(level="L2", splits=("test",))
def lose_overdue_deals(draw: Draw) -> Task:
    """Set open deals with a past close date to lost, and no other deals."""
    overdue = f"stage IN {OPEN} AND close_date < '{TODAY}'"
    account = lone_account(
        draw,
        f"EXISTS (SELECT 1 FROM deals WHERE account_id = a.id AND {overdue}) AND"
        " 2 = (SELECT count(*) FROM deals WHERE account_id = a.id)",
    )
    deals = draw.rows("SELECT id FROM deals WHERE account_id = ? ORDER BY name, id", account["id"])
    late = draw.rows(
        f"SELECT id FROM deals WHERE account_id = ? AND {overdue} ORDER BY name, id", account["id"]
    )
    calls = [
        find("accounts", account["name"]),
        find("deals", account["id"]),
        *(get(deal["id"]) for deal in deals),
    ]
    calls += [
        ToolCall("update_deal", {"deal": deal["id"], "field": "stage", "value": "lost"})
        for deal in late
    ]
    changes = [Change.update("deals", deal["id"], stage="lost") for deal in late]
    return _closed_task(
        draw, say(draw, phrases.OVERDUE, account=account["name"]), calls, changes, done()
    )


@template(level="L2", splits=("test",))
def note_on_largest_deal(draw: Draw) -> Task:
    """Add a note to the largest open deal of an account with two pages of deals.

    A won deal may be larger.
    """
    account = lone_account(draw, "10 = (SELECT count(*) FROM deals WHERE account_id = a.id)")
    deals = draw.rows(
        f"SELECT id, amount FROM deals WHERE account_id = ? AND stage IN {OPEN} ORDER BY "
        "amount DESC",
        account["id"],
    )
    if len(deals) < 2 or deals[0]["amount"] == deals[1]["amount"]:
        raise LookupError("no single largest deal")
    text = remark(draw.rng)
    prompt = say(draw, phrases.LARGEST, account=account["name"], value=text)
    calls = [
        find("accounts", account["name"]),
        find("deals", account["id"]),
        find("deals", account["id"], page=2),
        ToolCall("add_note", {"record": deals[0]["id"], "text": text}),
    ]
    return _closed_task(
        draw, prompt, calls, [Change.insert("notes", record_id=deals[0]["id"], text=text)], done()
    )
