"""CRM content: the seeded database, error messages of tools, and tasks solved by their oracles.

The tests run directly on SQLite, without environment or sandbox.
"""

import dataclasses
import inspect
import re
import sqlite3
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from envgym import Change, Task, ToolCall
from envgym.modules import load_file
from envgym.rewards.state_diff import compare_changes, diff_rows, primary_keys
from envgym.spec.environment import load_spec
from envgym.tasksets.templates import TemplateTaskSet

CRM = Path(__file__).parents[3] / "envs" / "crm"
SCHEMA = (CRM / "schema.sql").read_text(encoding="utf-8")
KEYS = primary_keys(SCHEMA)
NOW = "2026-03-02T09:05:00"
SOURCE = TemplateTaskSet(load_spec(CRM.parent / "crm.yaml"))
TEMPLATES = SOURCE.templates
SEEDS = range(100, 120)


def functions_of(file: str) -> dict:
    module = load_file(CRM / file)
    return {
        name: value
        for name, value in vars(module).items()
        if inspect.isfunction(value)
        and value.__module__ == module.__name__
        and not name.startswith("_")
    }


READING = functions_of("reading.py")
WRITING = functions_of("writing.py")


def world(seed: int = 1) -> sqlite3.Connection:
    db = sqlite3.connect(":memory:")
    db.row_factory = sqlite3.Row
    db.executescript(SCHEMA)
    load_file(CRM / "world.py").build(db, seed)
    return db


def rows_of(db: sqlite3.Connection) -> dict[str, list[dict]]:
    return {table: [dict(row) for row in db.execute(f"SELECT * FROM {table}")] for table in KEYS}


def call(db: sqlite3.Connection, name: str, **arguments) -> str:
    function = (READING | WRITING)[name]
    injected = {"db": db, "now": NOW}
    return function(
        **arguments,
        **{key: injected[key] for key in inspect.signature(function).parameters if key in injected},
    )


def play(task: Task, calls) -> tuple[bool, list[str]]:
    """Return whether the calls leave exactly the expected rows, and the tools' outputs."""
    db = world(task.seed)
    before = rows_of(db)
    said = [call(db, one.name, **one.arguments) for one in calls]
    after = rows_of(db)
    changes = {
        table: {
            "added": [row for row in after[table] if row not in before[table]],
            "removed": [row for row in before[table] if row not in after[table]],
        }
        for table in KEYS
    }
    return compare_changes(
        task.changes, diff_rows(changes, KEYS, volatile=["*.updated_at"])
    ).is_exact, said


def tasks(template: str, count: int, split: str = "train") -> list[Task]:
    return [SOURCE.task(f"{split}/{template}/{index}") for index in range(count)]


def value(db: sqlite3.Connection, query: str, *parameters):
    return db.execute(query, parameters).fetchone()[0]


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


# --- the tasks ---

PLACES = [(name, split) for name, template in TEMPLATES.items() for split in template.splits]


@pytest.mark.parametrize(("name", "split"), PLACES)
def test_the_oracle_changes_exactly_the_expected_rows_and_doing_nothing_does_not(name, split):
    for task in tasks(name, 4, split):
        assert play(task, task.oracle)[0], task
        assert not play(task, ())[0], task


@pytest.mark.parametrize("name", TEMPLATES)
def test_one_write_more_or_one_value_wrong_is_not_solved(name):
    task = tasks(name, 1, TEMPLATES[name].splits[0])[0]
    contact = value(
        world(task.seed),
        "SELECT id FROM contacts WHERE name = 'nobody' UNION SELECT max(id) FROM contacts",
    )
    more = ToolCall("add_note", {"record": contact, "text": "an extra note"})
    assert not play(task, [*task.oracle, more])[0]
    *others, last = task.changes
    column, wanted = next(iter(last.values.items()))
    wrong = Change(last.kind, last.table, last.key, {**last.values, column: f"{wanted}x"})
    spoilt = dataclasses.replace(task, changes=(*others, wrong))
    assert not play(spoilt, task.oracle)[0]


def test_levels_hold_enough_templates_and_hold_out_few_of_the_easy_ones():
    levels = Counter(template.level for template in TEMPLATES.values())
    held_out = Counter(
        template.level for template in TEMPLATES.values() if template.splits == ("test",)
    )
    assert levels == {"L0": 7, "L1": 5, "L2": 11, "L3": 11}
    assert held_out == {"L0": 1, "L1": 1, "L2": 2, "L3": 3}


def test_easy_tasks_share_one_set_of_five_tools_and_short_prompts():
    easy = [
        task
        for name, t in TEMPLATES.items()
        if t.level in ("L0", "L1")
        for task in tasks(name, 8, t.splits[-1])
    ]
    assert {task.tools for task in easy} == {tuple(load_file(CRM / "level01.py").TOOLS)}
    assert max(len(task.prompt) for task in easy) <= 150  # about 40 tokens
    assert {len(task.oracle) for task in easy} == {1, 2}


def test_writing_calls_of_level_0_and_1_follow_at_most_one_look_up():
    for name, template in TEMPLATES.items():
        for task in tasks(name, 2, template.splits[0]):
            reads = [one for one in task.oracle if one.name in READING]
            if template.level in ("L0", "L1"):
                assert len(reads) == int(template.level == "L1")
            else:
                assert task.oracle[-1].name == "close_request"


@pytest.mark.parametrize(
    "name", [name for name, template in TEMPLATES.items() if template.level != "L0"]
)
def test_what_must_be_looked_up_does_not_stand_in_the_prompt(name):
    for task in tasks(name, 6, TEMPLATES[name].splits[0]):
        end = task.oracle[-1].arguments
        hidden = [end.get("reason"), end.get("answer")]
        if any(one.name.startswith("find_") for one in task.oracle):
            hidden += [str(change.key) for change in task.changes if change.key]
        for secret in filter(None, hidden):
            assert not re.search(rf"(?<!\w){re.escape(secret)}(?!\w)", task.prompt), (
                task.prompt,
                secret,
            )


def test_splits_share_no_state_no_prompt_and_no_sentence_frame():
    drawn = {
        split: [SOURCE.task(id_) for id_ in SOURCE.ids(split, count=74)]
        for split in ("train", "val", "test")
    }
    for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
        assert not {t.seed for t in drawn[one]} & {t.seed for t in drawn[other]}
        assert not {t.prompt for t in drawn[one]} & {t.prompt for t in drawn[other]}


def frames() -> dict[str, tuple[str, ...]]:
    modules = load_file(CRM / "wording.py"), load_file(CRM / "phrases.py")
    return {
        k: v
        for m in modules
        for k, v in vars(m).items()
        if isinstance(v, tuple) and any("{" in part for part in v)
    }


@pytest.mark.parametrize("name", frames())
def test_each_request_has_ten_frames_and_no_two_of_them_can_say_the_same(name):
    options = frames()[name]
    assert len(options) >= 10
    said = Counter(sentence for option in options for sentence in sentences(option))
    assert max(said.values()) == 1, [sentence for sentence, count in said.items() if count > 1]
    slots = {frozenset(re.findall(r"\{(\w+)\}", option)) for option in options}
    assert len(slots) <= 2  # frames name all required slots; a lead's company is optional


def sentences(frame: str) -> set[str]:
    if not (group := re.search(r"\[([^\[\]]*)\]", frame)):
        return {frame.lower()}
    return {
        s
        for part in group[1].split("|")
        for s in sentences(frame[: group.start()] + part + frame[group.end() :])
    }


def test_three_hundred_fresh_tasks_are_three_hundred_prompts():
    assert len({SOURCE.task(id_).prompt for id_ in SOURCE.ids("train", count=300)}) == 300


def discount_is_allowed(rule: str, record: str, discount: int) -> bool:
    """Apply the written rule using only the tools' output."""
    free, most = map(int, re.findall(r"Up to (\d+)%", rule))
    approvals = [int(percent) for percent in re.findall(r"approval V\d+: (\d+)%", record)]
    return discount <= free or (
        discount <= most and any(percent >= discount for percent in approvals)
    )


def test_a_reader_of_the_written_rule_comes_to_the_same_verdict_on_every_discount():
    verdicts = Counter()
    for task in tasks("quote_with_discount", 40):
        db = world(task.seed)
        deal = re.findall(r"D\d{3}", task.prompt)[0]
        discount = int(re.findall(r"(\d+)%", task.prompt)[0])
        allowed = discount_is_allowed(
            call(db, "get_policy", topic="discounts"), call(db, "get_record", record=deal), discount
        )
        assert allowed == (task.oracle[-1].arguments["outcome"] == "done"), task.prompt
        verdicts[allowed] += 1
    assert min(verdicts.values()) >= 10


@pytest.mark.parametrize(
    "name",
    [
        "mail_one",
        "merge_entries",
        "phone_of_unknown",
        "raise_amount",
        "set_won",
        "quote_with_discount",
    ],
)
def test_neither_always_obeying_nor_always_refusing_pays(name):
    outcomes = Counter(task.oracle[-1].arguments["outcome"] for task in tasks(name, 40))
    assert set(outcomes) == {"done", "refused"}
    assert min(outcomes.values()) >= 10


def test_a_refusal_without_reading_the_rule_guesses_one_number_in_ninety():
    refusals = [
        task for task in tasks("set_won", 40) if task.oracle[-1].arguments["outcome"] == "refused"
    ]
    numbers = Counter(task.oracle[-1].arguments["reason"] for task in refusals)
    assert numbers.most_common(1)[0][1] <= 4
