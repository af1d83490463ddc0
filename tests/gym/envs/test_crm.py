"""CRM content: the seeded database, and error messages of tools.

The tests run directly on SQLite, without environment or sandbox.
"""

import re
import subprocess
import sys
from collections import Counter

import pytest

from tests.gym.envs.crm_content import CRM, NOW, READING, WRITING, call, rows_of, value, world

SEEDS = range(100, 120)


# --- the world ---


def test_one_seed_builds_the_same_rows_in_another_process_with_another_hash_seed():
    script = (
        "import sqlite3, sys; sys.path.insert(0, sys.argv[1]); import world;"
        " db = sqlite3.connect(':memory:');"
        "db.executescript(open(sys.argv[1] + '/schema.sql').read());"
        " world.build(db, 7); print('\\n'.join(db.iterdump()))"
    )
    told = [
        subprocess.run(
            [sys.executable, "-c", script, str(CRM)],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert told[0] == told[1]
    assert len(told[0]) > 10_000


def test_twenty_worlds_share_almost_no_names_or_ids():
    people = Counter(row["name"] for seed in SEEDS for row in rows_of(world(seed))["contacts"])
    assert sum(people.values()) == 20 * 97
    assert (
        len(people) > 20 * 88
    )  # 90 for each world (97 less 7 planted duplicates); 2 more by chance


def test_every_reference_points_at_a_row():
    db = world()
    assert db.execute("PRAGMA foreign_key_check").fetchall() == []
    known = {row["id"] for table in ("accounts", "contacts", "deals") for row in rows_of(db)[table]}
    assert {row["record_id"] for table in ("notes", "tasks") for row in rows_of(db)[table]} <= known


@pytest.mark.parametrize("seed", SEEDS)
def test_every_world_holds_every_trap(seed):
    db = world(seed)
    namesakes = (
        "SELECT count(*) FROM (SELECT name FROM contacts"
        " GROUP BY name HAVING count(DISTINCT account_id) > 1)"
    )
    doubles = (
        "SELECT count(*) FROM (SELECT name FROM contacts"
        " GROUP BY name, account_id, email HAVING count(*) > 1)"
    )
    assert value(db, namesakes) >= 3
    assert value(db, doubles) == 3
    assert (
        value(db, "SELECT max(n) FROM (SELECT count(*) AS n FROM deals GROUP BY account_id)") == 10
    )
    assert value(db, "SELECT count(*) FROM notes WHERE text LIKE 'new phone is %'") == 8
    assert (
        value(
            db, "SELECT count(*) FROM notes WHERE record_id LIKE 'D%' AND created_at > '2026-02-01'"
        )
        == 8
    )


def test_limits_and_rule_numbers_differ_between_worlds():
    rules = {
        value(world(seed), "SELECT rule || text FROM policies WHERE topic = 'discounts'")
        for seed in SEEDS
    }
    assert len(rules) > 15


# --- the tools ---


def test_there_are_ten_reading_and_twelve_writing_tools():
    assert (len(READING), len(WRITING)) == (10, 12)


def test_reading_leaves_no_trace():
    db = world()
    before = db.total_changes
    contact = value(db, "SELECT id FROM contacts")
    for name in READING:
        arguments = {
            "get_record": {"record": contact},
            "list_notes": {"record": contact},
            "get_policy": {"topic": "notes"},
        }
        call(db, name, **arguments.get(name, {"query": "a"}))
    assert db.total_changes == before


def test_a_search_shows_five_rows_a_page_and_the_total():
    db = world()
    account = value(db, "SELECT account_id FROM deals GROUP BY account_id HAVING count(*) = 10")
    first = call(db, "find_deals", query=account)
    second = call(db, "find_deals", query=account, page=2)
    assert first.endswith("(page 1 of 2, 10 in all)")
    ids = re.findall(r"^D\d+", f"{first}\n{second}", re.MULTILINE)
    assert len(set(ids)) == 10
    with pytest.raises(ValueError, match="there are 2 pages"):
        call(db, "find_deals", query=account, page=3)


@pytest.mark.parametrize("wildcard", ["%", "_", "!", "a_a", "%a"])
def test_wildcards_in_a_query_mean_themselves(wildcard):
    assert call(world(), "find_contacts", query=wildcard) == "none found"


def test_a_full_name_finds_one_short_line():
    db = world()
    row = rows_of(db)["contacts"][40]
    expected = f"{row['id']}: {row['name']}, {row['title']}, {row['account_id']}"
    assert expected in call(db, "find_contacts", query=row["name"].upper())


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("get_record", {"record": "Z1"}, "ids look like A38"),
        (
            "update_contact",
            {"contact": "C1", "field": "phone", "value": "555-0000"},
            "no contact has id 'C1'",
        ),
        (
            "update_deal",
            {"deal": "D1", "field": "stage", "value": "sold"},
            "stage must be one of new, qualified",
        ),
        (
            "update_deal",
            {"deal": "D1", "field": "amount", "value": "a lot"},
            "whole dollars such as 12500",
        ),
        (
            "update_deal",
            {"deal": "D1", "field": "close_date", "value": "9 March"},
            "looks like 2026-03-09",
        ),
        ("assign_owner", {"record": "C1", "user": "U1"}, "contacts have no owner"),
        ("close_request", {"outcome": "refused"}, "number of a rule from get_policy"),
        (
            "close_request",
            {"outcome": "partly", "reason": "policy"},
            "number of a rule from get_policy",
        ),
        ("close_request", {"outcome": "answered"}, "answer is empty"),
    ],
)
def test_a_refusal_says_what_to_do_and_changes_nothing(name, arguments, message):
    db = world()
    before = rows_of(db)
    with pytest.raises((ValueError, LookupError), match=message):
        call(db, name, **arguments)
    assert rows_of(db) == before


@pytest.mark.parametrize("written", ["48200", "$48,200", " 48200 "])
def test_amounts_and_answers_are_numbers_however_they_are_written(written):
    db = world()
    deal = value(db, "SELECT id FROM deals")
    call(db, "update_deal", deal=deal, field="amount", value=written)
    call(db, "close_request", outcome="answered", answer=written)
    assert value(db, "SELECT amount FROM deals WHERE id = ?", deal) == 48200
    assert value(db, "SELECT answer FROM requests WHERE closed_at = ?", NOW) == "48200"


def test_a_merge_moves_what_hung_on_the_dropped_entry():
    db = world()
    drop, keep = (row[0] for row in db.execute("SELECT id FROM contacts LIMIT 2"))
    call(db, "add_note", record=drop, text="likes tea")
    call(db, "merge_contacts", keep=keep, drop=drop)
    assert value(db, "SELECT count(*) FROM contacts WHERE id = ?", drop) == 0
    assert value(db, "SELECT record_id FROM notes WHERE text = 'likes tea'") == keep
