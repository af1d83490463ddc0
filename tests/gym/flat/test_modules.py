"""Files of an environment import their own siblings, and no others, in every backend."""

import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from envgym.env import ToolWorld
from envgym.errors import SpecError
from envgym.modules import load_file, load_object
from envgym.sandbox.agent import load_module
from envgym.sandbox.hidden_files import hidden_files
from envgym.spec.environment import load_spec

YAML = """\
id: test/{name}-v0
prompt: {{dialects: [pythonic]}}
tools: [tools.py]
state: {{seed: world.py:build, schema: schema.sql}}
sandbox: {{backend: {backend}, isolation: {isolation}}}
tasks: {{from: tasks.py, val: 1, test: 1}}
"""
FILES = {
    "schema.sql": "CREATE TABLE things (id TEXT PRIMARY KEY);",
    "world.py": "import names\n\ndef build(db, seed):\n"
    "    db.execute('INSERT INTO things VALUES (?)', (names.NAME,))\n",
    "tools.py": '''\
import names

def early() -> str:
    """Name that was imported with the file."""
    return names.NAME

def late() -> str:
    """Name that is imported at the call."""
    import names as mine
    from words.greetings import HELLO
    return f"{HELLO} {mine.NAME}"

def seeded(db) -> str:
    """Name in the table."""
    return db.execute("SELECT id FROM things").fetchone()[0]
''',
    "tasks.py": """\
from envgym import NOTHING, Draw, ToolCall, template

@template(level="L0")
def only(draw: Draw):
    import names
    prompt = draw.wording([f"{names.NAME} {n}" for n in "abc"])
    return draw.task(prompt=prompt, oracle=[ToolCall("early", {})], changes=NOTHING)
""",
    "words/__init__.py": "",
}
BACKENDS = [("none", "state"), ("local", "state"), ("local", "fork")]


def write_env(folder: Path, name: str, backend: str = "none", isolation: str = "state") -> Path:
    yaml = YAML.format(name=name, backend=backend, isolation=isolation)
    own = {
        "env.yaml": yaml,
        "names.py": f"NAME = '{name}'\n",
        "words/greetings.py": f"HELLO = 'hello from {name}'\n",
    }
    write_files(folder, FILES | own)
    return folder / "env.yaml"


def write_files(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def answers(world: ToolWorld) -> list[str]:
    env = world.env()
    _, info = env.reset(options={"task": "test/only/0"})
    prompt = info["messages"][1]["content"].split()[0]
    return [prompt, *(env.step(f"{tool}()")[0] for tool in ("early", "late", "seeded"))]


@pytest.mark.parametrize(("backend", "isolation"), BACKENDS)
def test_two_environments_in_one_process_have_helper_files_of_one_name(
    tmp_path, backend, isolation
):
    names = ("first", "second")
    files = [write_env(tmp_path / name, name, backend, isolation) for name in names]
    path, worlds = list(sys.path), [ToolWorld(load_spec(file)) for file in files]
    try:
        for _ in range(
            2
        ):  # alternately, so that neither a first nor a later import can return the other module
            for name, world in zip(names, worlds, strict=True):
                assert answers(world) == [name, name, f"hello from {name} {name}", name]
    finally:
        for world in worlds:
            world.close()
    assert sys.path == path
    assert not {"names", "words", "tools", "world", "tasks"} & set(sys.modules)


def test_a_shipped_environment_and_an_own_one_have_helper_files_of_one_name(tmp_path):
    crm = load_spec("crm", ["sandbox.backend=none", "sandbox.isolation=state"])
    own = load_spec(write_env(tmp_path / "own", "own"))
    worlds = [ToolWorld(crm), ToolWorld(own)]
    try:
        assert answers(worlds[1])[0] == "own"
        assert load_file(crm.root / "crm/names.py") is load_file(crm.root / "crm/world.py").names
        assert worlds[0].tasks.task("test/set_phone/0").prompt
        assert load_file(crm.root / "crm/world.py").names is not load_file(own.root / "names.py")
    finally:
        for world in worlds:
            world.close()


def test_the_host_and_the_agent_share_one_module_of_a_file(tmp_path):
    write_files(tmp_path, {"a.py": "", "b.py": "import a"})
    assert load_module(tmp_path / "a.py") is load_file(tmp_path / "b.py").a


LOAD = (
    "import pickle, sys; thing = pickle.loads(sys.stdin.buffer.read());"
    " print(thing.name, thing.__class__.__module__)"
)


def test_an_object_of_a_sibling_is_loaded_from_a_pickle_by_a_new_process(tmp_path):
    thing = "class Thing:\n    def __init__(self, name):\n        self.name = name\n"
    make = "from things import Thing\ndef make():\n    return Thing('a.b')\n"
    folder = tmp_path / "v1.2 %2E"  # dots and per cent signs in a path do not split the module name
    write_files(folder, {"things.py": thing, "tools.py": make})
    made = load_object("tools.py:make", folder)()
    done = subprocess.run(
        [sys.executable, "-c", LOAD], input=pickle.dumps(made), capture_output=True, check=True
    )
    assert done.stdout.decode().strip() == f"a.b {type(made).__module__}"


def test_every_form_of_an_import_statement_finds_siblings(tmp_path):
    write_files(
        tmp_path,
        {
            "names.py": "A, B = 1, 2\n",
            "parts/__init__.py": "from parts.inner import DEEP\n",
            "parts/inner.py": "import names\nDEEP = names.B\n",
            "plain/more.py": "MORE = 5\n",
            "all.py": "from names import *\n",
            "tools.py": "import json\nimport os.path\nimport names, parts.inner\n"
            "import parts.inner as inner\nimport plain.more\nfrom all import A\n"
            "from parts import DEEP, inner as again\nfrom . import names as relative\n"
            "from .parts.inner import DEEP as near\nfrom xml.dom import minidom\n",
        },
    )
    tools = load_file(tmp_path / "tools.py")
    assert (tools.A, tools.DEEP, tools.near, tools.plain.more.MORE) == (1, 2, 2, 5)
    assert tools.parts.inner is tools.inner is tools.again
    assert tools.relative is tools.names
    assert tools.json is sys.modules["json"]
    assert tools.os is sys.modules["os"]
    assert tools.minidom is sys.modules["xml.dom.minidom"]


def test_a_sibling_goes_before_a_module_of_the_standard_library_for_its_folder_alone(tmp_path):
    write_files(tmp_path, {"one/json.py": "OWN = 1\n", "one/tools.py": "import json\n"})
    write_files(tmp_path, {"two/json/data.txt": "", "two/tools.py": "import json\n"})
    assert load_file(tmp_path / "one/tools.py").json.OWN == 1
    assert load_file(tmp_path / "two/tools.py").json is sys.modules["json"]


def test_a_package_that_python_finds_at_the_same_place_is_not_loaded_twice(tmp_path, monkeypatch):
    write_files(tmp_path, {"their_company/__init__.py": "", "tools.py": "import their_company\n"})
    monkeypatch.syspath_prepend(tmp_path)  # as an editable install does
    import their_company  # type: ignore[import-not-found]

    assert load_file(tmp_path / "tools.py").their_company is their_company


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ({}, "no such file"),
        (
            {"tools.py": "import gone"},
            "fails on import: ModuleNotFoundError: No module named 'gone'",
        ),
        ({"tools.py": "import names", "names.py": "1 / 0"}, "fails on import: ZeroDivisionError"),
        ({"tools.py": "def f(:"}, "fails on import: SyntaxError"),
    ],
)
def test_a_file_that_cannot_be_imported_is_named(tmp_path, files, problem):
    write_files(tmp_path, files)
    with pytest.raises(SpecError, match=rf"tools\.py: {problem}"):
        load_file(tmp_path / "tools.py")


def test_what_a_secret_file_imports_by_a_relative_name_is_hidden_too(tmp_path):
    write_files(
        tmp_path,
        {
            "env/tasks.py": "from . import phrases\nfrom .truth import X\nfrom .parts import inner",
            "env/phrases.py": "",
            "env/truth.py": "",
            "env/parts/__init__.py": "",
            "env/parts/inner.py": "from .. import deep",
            "env/deep.py": "",
            "env/tools.py": "",
        },
    )
    found = hidden_files(tmp_path, secret=["env/tasks.py"], needed=["env/tools.py"])
    secret = {
        "tasks.py",
        "phrases.py",
        "truth.py",
        "parts/__init__.py",
        "parts/inner.py",
        "deep.py",
    }
    assert set(found) == {f"env/{name}" for name in secret}
