"""The CRM's templates and tools, run directly on SQLite."""

import inspect
import sqlite3
from pathlib import Path

from envgym import Task
from envgym.modules import load_file
from envgym.rewards.state_diff import primary_keys
from envgym.spec.environment import load_spec
from envgym.tasksets.templates import TemplateTaskSet

CRM = Path(__file__).parents[3] / "envs" / "crm"
SCHEMA = (CRM / "schema.sql").read_text(encoding="utf-8")
KEYS = primary_keys(SCHEMA)
NOW = "2026-03-02T09:05:00"
SOURCE = TemplateTaskSet(load_spec(CRM.parent / "crm.yaml"))


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


def tasks(template: str, count: int, split: str = "train") -> list[Task]:
    return [SOURCE.task(f"{split}/{template}/{index}") for index in range(count)]


def value(db: sqlite3.Connection, query: str, *parameters):
    return db.execute(query, parameters).fetchone()[0]
