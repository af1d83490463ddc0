"""`envgym check`: a sound environment passes; each deliberate defect fails exactly one check."""

import json

import pytest

from envgym.evaluation.checks import check, print_checks
from envgym.spec.environment import load_spec

YAML = """
id: test/phones-v0
prompt: {system: Use the tools., dialects: [pythonic]}
tools: [tools.py]
state: {schema: schema.sql, seed: world.py:build}
sandbox: {backend: none}
tasks: {from: tasks.py, val: 6, test: 6}
reward:
  solved: {from: state_match}
episode: {max_turns: 4, spare_turns: 0, closing_tools: [close]}
"""
SCHEMA = """
CREATE TABLE contacts (id TEXT PRIMARY KEY, name TEXT, phone TEXT);
CREATE TABLE closings (id INTEGER PRIMARY KEY, reason TEXT);
CREATE TABLE lamps (id TEXT PRIMARY KEY, lit INTEGER);
"""
WORLD = """
import random

def build(db, seed):
    rng = random.Random(seed)
    for number in sorted(rng.sample(range(1000, 9999), 6)):
        first, last = rng.choice(["Ada", "Bob", "Cyd"]), rng.choice(["Lee", "May", "Fox"])
        name = f"{first} {last} {number % 97}"
        db.execute("INSERT INTO contacts VALUES (?, ?, ?)", (f"C{number}", name, "none"))
    db.execute("INSERT INTO lamps VALUES ('L1', 0)")
"""
TOOLS = '''
import time

SEEN = []

def find_contact(db, name: str) -> str:
    """Find a contact by its name."""
    rows = db.execute("SELECT id FROM contacts WHERE name = ?", (name,)).fetchall()
    return ", ".join(row[0] for row in rows) or "nobody"

def set_phone(db, contact: str, phone: str) -> str:
    """Change a phone."""
    if not db.execute("UPDATE contacts SET phone = ? WHERE id = ?", (phone, contact)).rowcount:
        raise LookupError(f"no contact {contact}")
    return "ok"

def close(db, reason: str) -> str:
    """End the request without doing it."""
    db.execute("INSERT INTO closings (reason) VALUES (?)", (reason,))
    return "closed"

def light(db) -> str:
    """Light the lamp."""
    db.execute("UPDATE lamps SET lit = 1")
    return "ok"
'''
TASKS = """
from envgym import Change, Draw, ToolCall, template

WORDS = ["Set the phone of {} to {}.", "{} now has {}.", "New phone of {}: {}.",
         "Please give {} the phone {}.", "{} moved to {}."]
TOOLS = ("find_contact", "set_phone", "close")

def task(draw, looked_up):
    row = draw.row("SELECT id, name FROM contacts ORDER BY id")
    phone = f"555-{draw.rng.randrange(10**6):06}"
    oracle = [ToolCall("find_contact", {"name": row["name"]})] if looked_up else []
    oracle.append(ToolCall("set_phone", {"contact": row["id"], "phone": phone}))
    prompt = draw.wording(WORDS).format(row["name"] if looked_up else row["id"], phone)
    changes = [Change.update("contacts", row["id"], phone=phone)]
    return draw.task(prompt=prompt, oracle=oracle, changes=changes, tools=TOOLS)

@template(level="L0")
def by_id(draw: Draw):
    return task(draw, looked_up=False)

@template(level="L1")
def by_name(draw: Draw):
    return task(draw, looked_up=True)
"""
ANOTHER_TEMPLATE = """
@template(level="L3")
def another(draw: Draw):
    n = draw.rng.randrange(10**9)
    return draw.task(prompt=f"Case {n}.", oracle=ORACLE, changes=CHANGES, tools=OFFERED)
"""


def environment(folder, *, reward: str = "", prompt: str = "", **edits):
    """Write the sound environment with replaced text.

    `tools=(old, new)` replaces text in a file; `reward` is the source of a custom `solved` part.
    """
    files = {"env": YAML, "schema": SCHEMA, "world": WORLD, "tools": TOOLS, "tasks": TASKS}
    for name, (old, new) in edits.items():
        assert old in files[name]
        files[name] = files[name].replace(old, new)
    if reward:
        files["rewards"] = (
            f"from envgym.rewards.parts.state import state_match\n\n"
            f"def part(evidence):\n    {reward}\n"
        )
    endings = {"env": "yaml", "schema": "sql"}
    for name, text in files.items():
        (folder / f"{name}.{endings.get(name, 'py')}").write_text(text, encoding="utf-8")
    return load_spec(folder / "env.yaml")


def failed(spec) -> set[str]:
    return {result.id for result in check(spec, tasks_per_split=6) if not result.passed}


def another_template(oracle: str, changes: str, offered: str) -> tuple[str, str]:
    text = (
        ANOTHER_TEMPLATE.replace("ORACLE", oracle)
        .replace("CHANGES", changes)
        .replace("OFFERED", offered)
    )
    last = "    return task(draw, looked_up=True)\n"
    return last, f"{last}\n{text}"


OWN_REWARD = ("{from: state_match}", "{from: 'rewards.py:part'}")
BROKEN = {
    "a template that raises": (
        {"task_declaration_accuracy"},
        {"tasks": another_template("[]", "[]", "{}['key']")},
    ),
    "an oracle that sets the wrong phone": (
        {"oracle_max"},
        {
            "tasks": (
                '{"contact": row["id"], "phone": phone}',
                '{"contact": row["id"], "phone": phone + "9"}',
            )
        },
    ),
    "a reward for doing nothing": (
        {"floor_gap"},
        {
            "env": (
                "{from: state_match}",
                "{from: state_match}\n  polite: {from: 'rewards.py:part', weight: 0.1}",
            ),
            "reward": "return None if evidence.calls else 1.0",
        },
    ),
    "one refusal that is right too often": (
        {"canary_floor.refuse"},
        {
            "tasks": another_template(
                '[ToolCall("close", {"reason": "not_allowed"})]',
                '[Change.insert("closings", reason="not_allowed")]',
                "TOOLS",
            )
        },
    ),
    "a task that any call solves": (
        {"canary_floor.random"},
        {
            "tasks": another_template(
                '[ToolCall("light", {})]', '[Change.update("lamps", "L1", lit=1)]', '("light",)'
            )
        },
    ),
    "a tool that crashes on a text its schema allows": (
        {"tool_declaration_accuracy", "tool_failures"},
        {
            "tools": (
                '    """Change a phone."""',
                '    """Change a phone."""\n    assert not phone.isalpha()',
            )
        },
    ),
    "a grader that looks at the row and not at the value": (
        {"wrong_field"},
        {
            "env": OWN_REWARD,
            "reward": "return float([row.key for row in evidence.changed_rows]"
            " == [change.key for change in evidence.task.changes])",
        },
    ),
    "a grader that looks at nothing but the expected rows": (
        {"extra_write"},
        {"env": OWN_REWARD, "reward": "return float(not evidence.verdict.missing)"},
    ),
    "a grader that wants the oracle's number of calls": (
        {"reads_free"},
        {
            "env": OWN_REWARD,
            "reward": "return state_match(evidence)"
            " * (len(evidence.calls) <= len(evidence.task.oracle))",
        },
    ),
    "an answer in the order of a set": (
        {"episode_determinism"},
        {"tools": ('or "nobody"', 'or str(set("not a soul by that name, quick zebra"))')},
    ),
    "a metric that hashes text": (
        {"verifier_determinism"},
        {
            "env": (
                "{from: state_match}",
                "{from: state_match}\n  odd: {from: 'rewards.py:part', weight: 0}",
            ),
            "reward": "return float(hash('text') % 10**6)",
        },
    ),
    "a tool that remembers other episodes": (
        {"episode_isolation", "episode_determinism"},
        {
            "tools": (
                '    return "ok"\n\ndef close',
                '    SEEN.append(contact)\n    return f"ok {len(SEEN)}"\n\ndef close',
            )
        },
    ),
    "a tool that reads the wall clock": (
        {"episode_isolation", "episode_determinism"},
        {
            "tools": (
                '    return "ok"\n\ndef close',
                '    return f"ok {time.time_ns()}"\n\ndef close',
            )
        },
    ),
    "a system prompt that names the value to be set": (
        {"no_solution_leakage"},
        {
            "env": ("system: Use the tools.", "system: Use the tools. The code is 4711-XY."),
            "tasks": another_template(
                '[ToolCall("set_phone",'
                ' {"contact": (c := draw.row("SELECT id FROM contacts")["id"]),'
                ' "phone": "4711-XY"})]',
                '[Change.update("contacts", c, phone="4711-XY")]',
                "TOOLS",
            ),
        },
    ),
    "the same requests in training and test": (
        {"splits_disjoint"},
        {
            "tasks": (
                "draw.wording(WORDS).format(row",
                "'Do {0} it.'.format(draw.rng.choice('ab') or row",
            )
        },
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_an_environment_broken_on_purpose_fails_in_that_check_alone(what, tmp_path):
    wanted, edits = BROKEN[what]
    assert failed(environment(tmp_path, **edits)) == wanted


def test_a_sound_environment_passes_every_check(tmp_path, capsys):
    calls = []
    results = check(
        environment(tmp_path),
        tasks_per_split=6,
        progress=lambda check, episodes: calls.append((check, episodes)),
    )
    assert [result.id for result in results if not result.passed] == []
    assert not any("not applicable" in result.detail for result in results)
    assert {check for wanted, _ in BROKEN.values() for check in wanted} <= {
        result.id for result in results
    }
    assert {check for check, _ in calls} <= {result.id for result in results}
    assert calls[-1][1] > 100  # episodes were played
    print_checks(results)
    assert f"{len(results)} of {len(results)} checks passed" in capsys.readouterr().out
    print_checks(results, as_json=True)
    plain = json.loads(capsys.readouterr().out)
    assert plain["passed"] is True
    assert plain["checks"][0]["id"] == "task_declaration_accuracy"


def test_a_failure_names_the_task_and_what_happened(tmp_path):
    _, edits = BROKEN["an oracle that sets the wrong phone"]
    results = {
        result.id: result for result in check(environment(tmp_path, **edits), tasks_per_split=6)
    }
    assert (
        "train/by_id/0: reward 0, answered of 1, 1 expected changes missing, 1 unexpected"
        in results["oracle_max"].detail
    )
    assert "and 15 more" in results["oracle_max"].detail
