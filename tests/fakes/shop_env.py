"""A small shop environment that tests write into a folder, often with a deliberate defect.

It has two tables, four tools and one template for each level.
"""

from pathlib import Path

from envgym.spec.environment import EnvSpec, load_spec

YAML = """\
id: test/shop-v0
prompt: {system: "You run a shop. Today is {now}.", dialects: [pythonic, hermes]}
tools: [tools.py]
state:
  schema: schema.sql
  seed: world.py:build
  clock_start: "2026-01-05T09:00:00"
  volatile: ["*.updated_at"]
  forbid: [audit]
sandbox: {backend: none}
tasks: {from: tasks.py, val: 6, test: 6}
reward:
  solved: {from: state_match}
  calls: {from: valid_calls, weight: 0.0}
episode: {max_turns: 4, closing_tools: [close], max_observation_chars: 80}
"""

SCHEMA = """\
CREATE TABLE items (id TEXT PRIMARY KEY, name TEXT, price INTEGER, updated_at TEXT);
CREATE TABLE audit (id INTEGER PRIMARY KEY, line TEXT);
"""

WORLD = """\
import random

def build(db, seed):
    rng = random.Random(seed)
    for n in range(5):
        row = (f"I{n}", f"thing {rng.randrange(10**6)}", rng.randrange(100))
        db.execute("INSERT INTO items VALUES (?, ?, ?, '')", row)
"""

FAILS_IN_BOXES = WORLD.replace(
    "def build(db, seed):\n",
    "import sys\n\ndef build(db, seed):\n"
    "    if 'envgym.env' not in sys.modules and seed % EVERY == 0:\n"
    "        raise RuntimeError('no rows')\n",
)
"""World whose seed function works on the host, which builds tasks, and fails in a box for each seed
that `EVERY`, to be replaced by a number, divides."""

TOOLS = '''\
import os
import time

def price(db, item: str) -> str:
    """The price of an item."""
    row = db.execute("SELECT price FROM items WHERE id = ?", (item,)).fetchone()
    if row is None:
        raise LookupError(f"no item {item}")
    return str(row[0])

def set_price(db, now, item: str, price: int) -> str:
    """Change the price of an item."""
    if price < 0:
        raise ValueError("a price cannot be negative")
    db.execute("UPDATE items SET price = ?, updated_at = ? WHERE id = ?", (price, now, item))
    return "ok"

def tell(now, text: str) -> str:
    """Say a text, with the time."""
    return f"{now} {text}"

def close(db) -> str:
    """End the request."""
    return "closed"

def crash() -> str:
    """Break the world."""
    return 1 / 0

def audit(db) -> str:
    """Write where nobody may."""
    db.execute("INSERT INTO audit (line) VALUES ('x')")
    return "ok"
'''

TASKS = """\
from envgym import Change, Draw, ToolCall, template

@template(level="L0")
def reprice(draw: Draw):
    item, price = draw.row("SELECT * FROM items"), draw.rng.randrange(100, 200)
    return draw.task(
        prompt=draw.wording([
            f"{item['id']} to {price}.",
            f"{item['id']} costs {price}.",
            f"Price of {item['id']}: {price}.",
        ]),
        oracle=[ToolCall("set_price", {"item": item["id"], "price": price})],
        changes=[Change.update("items", item["id"], price=price)],
    )

@template(level="L1", splits=("train", "test"))
def ask(draw: Draw):
    item = draw.row("SELECT * FROM items")
    return draw.task(
        prompt=f"What does {item['id']} cost?",
        oracle=[ToolCall("price", {"item": item["id"]})],
        final=f"{item['price']}.",
        facts=[str(item["price"])], tools=["price", "tell"],
    )
"""


def write(folder: Path, **files: str) -> Path:
    """Write the shop, with some files replaced (`tools=...`), and return its YAML."""
    given = {"yaml": YAML, "schema": SCHEMA, "world": WORLD, "tools": TOOLS, "tasks": TASKS} | files
    for name, text in given.items():
        suffix = {"yaml": "shop.yaml", "schema": "schema.sql"}.get(name, f"{name}.py")
        (folder / suffix).write_text(text)
    return folder / "shop.yaml"


def shop(folder: Path, *overrides: str, **files: str) -> EnvSpec:
    return load_spec(write(folder, **files), overrides)
