"""Refusals and failures of tools are told apart by the place of the exception."""

import sys

import pytest

from envgym.sandbox.agent import load_app
from envgym.sandbox.agent.errors import BoxError
from envgym.sandbox.agent.session import Desk
from envgym.sandbox.agent.tables import prepare_image
from envgym.sandbox.agent.tool_errors import provide_envgym

TOOLS = """
import datetime
import enum
import json
import helpers
from envgym import ToolError

class Closed(ToolError):
    pass

class Colour(enum.Enum):
    RED = "red"

class Silent(Exception):
    def __str__(self):
        raise RuntimeError("no text")
"""
BODIES = {
    "own_statement": "raise ValueError('too many')",
    "helper_statement": "helpers.refuse()",
    "translated": (
        "try:\n        int('x')\n    except ValueError as error:\n"
        "        raise LookupError(f'not a number: {error}') from None"
    ),
    "key_of_ours": "raise KeyError('no such key')",
    "tool_error": "raise ToolError('closed')",
    "own_class": "raise Closed('on Mondays')",
    "raised_by_generator": "list(helpers.refusing())",
    "missing_key": "return {}['colour']",
    "index": "return [][3]",
    "parse": "return int('n/a')",
    "library": "return json.loads('{broken')",
    "date": "return datetime.date(2026, 13, 1)",
    "enum": "return Colour('blue')",
    "decode": "return b'\\xff'.decode()",
    "unpack": "a, b = [1]",
    "own_other_class": "raise PermissionError('not yours')",
    "cycle": "a = []\n    a.append(a)\n    return a",
    "recursion": "return BODY()",
    "memory": "raise MemoryError",
    "leaves": "raise SystemExit(1)",
    "interrupted": "raise KeyboardInterrupt",
    "silent": "raise Silent",
    "constraint": "db.execute('INSERT INTO t VALUES (1, 9)')",
    "late_constraint": "db.execute('INSERT INTO child VALUES (5)')",
    "no_sql": "db.execute('SELEC 1')",
    "huge": "db.execute('SELECT ?', (2**70,))",
    "surrogate": "db.execute('SELECT ?', ('\\ud800',))",
    "commit": "db.execute('INSERT INTO t VALUES (3, 0)'); db.execute('COMMIT')",
}
REFUSALS = {
    "own_statement": "too many",
    "helper_statement": "refused",
    "translated": "not a number: invalid literal for int() with base 10: 'x'",
    "key_of_ours": "no such key",
    "tool_error": "closed",
    "own_class": "on Mondays",
    "raised_by_generator": "refused",
}
SCHEMA = (
    "CREATE TABLE t (id INTEGER PRIMARY KEY, v); INSERT INTO t VALUES (1, 0);"
    "CREATE TABLE child (t INTEGER REFERENCES t (id) DEFERRABLE INITIALLY DEFERRED);"
)


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    folder = tmp_path_factory.mktemp("app")
    functions = [
        f'def {name}(db):\n    """Tool."""\n    {body.replace("BODY()", f"{name}(db)")}\n'
        for name, body in BODIES.items()
    ]
    (folder / "tools.py").write_text(TOOLS + "\n\n" + "\n\n".join(functions))
    (folder / "helpers.py").write_text(
        "def refuse():\n    raise ValueError('refused')\n\n"
        "def refusing():\n    yield 1\n    raise ValueError('refused')\n"
    )
    (folder / "schema.sql").write_text(SCHEMA)
    app = load_app(folder, ["tools.py"], "schema.sql")
    desk = Desk(app, prepare_image(SCHEMA, None, 0), 0)
    yield desk
    desk.close()


@pytest.mark.parametrize("tool", REFUSALS)
def test_a_refusal_is_told_in_its_own_words(desk, tool):
    end = desk.call(tool, {}, "now")
    assert (end["ok"], end["text"], end["fault"]) == (False, REFUSALS[tool], "")


@pytest.mark.parametrize("tool", [name for name in BODIES if name not in REFUSALS])
def test_every_other_exception_is_a_failure_with_its_place_and_the_session_goes_on(desk, tool):
    end = desk.call(tool, {}, "now")
    assert not end["ok"]
    assert end["text"].startswith("the tool failed: ")
    assert "Traceback" not in end["text"]
    assert len(end["text"]) < 300
    assert end["fault"].startswith(("tools.py:", f"tool '{tool}': "))
    assert desk.call("own_statement", {}, "now")["text"] == "too many"


def test_the_changes_of_a_failed_call_are_undone(desk):
    desk.call("constraint", {}, "now")
    assert "child" not in desk.diff()


def test_a_closed_database_is_a_lost_state(tmp_path):
    (tmp_path / "tools.py").write_text('def shut(db):\n    """Tool."""\n    db.close()\n')
    desk = Desk(load_app(tmp_path, ["tools.py"]), prepare_image(None, None, 0), 0)
    with pytest.raises(BoxError, match="the database is lost") as caught:
        desk.call("shut", {}, "now")
    assert caught.value.kind == "state_lost"


def test_tools_can_import_the_refusal_where_envgym_is_absent():
    modules = {}
    provide_envgym(modules)
    assert modules["envgym"].ToolError.__name__ == "ToolError"
    real = {"envgym": sys.modules["envgym"]}
    provide_envgym(real)
    assert real["envgym"] is sys.modules["envgym"]
