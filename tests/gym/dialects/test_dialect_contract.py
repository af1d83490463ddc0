"""Every dialect has the same members; users can add one as a file."""

import os
import subprocess
import sys

import pytest

from envgym import load_spec, make_world, play
from envgym.dialects import (
    DEFAULT_DIALECTS,
    MEMBERS,
    dialect_names,
    find_dialect,
    parse,
    usage_example,
)
from envgym.errors import SpecError
from envgym.messages import ToolCall
from envgym.policies.oracle import OraclePolicy
from tests.fakes.shop_env import write

LOOK_UP = ToolCall("look_up", {"id": "A1", "limit": 2})
JSON = '{"name": "look_up", "arguments": {"id": "A1", "limit": 2}}'
FILE = """
import json

from envgym import ToolCall


def read(text):
    if not text.startswith("-> "):
        return None
    name, _, arguments = text[3:].partition(" ")
    return [ToolCall(name, json.loads(arguments))], ""


def write(call):
    return f"-> {call.name} {json.dumps(dict(call.arguments))}"


def example():
    return "Answer with: " + write(ToolCall("look_up", {"word": "tree"}))
"""
OWN = f"""{FILE}

class Arrow:
    def read(self, text):
        return read(text)

    def write(self, call):
        return write(call)

    def example(self):
        return example()


class Half:
    def read(self, text):
        return read(text)


ready = Arrow()
"""


@pytest.fixture
def own(tmp_path):
    """A folder with files of dialects."""
    (tmp_path / "plain.py").write_text(FILE)
    (tmp_path / "arrow.py").write_text(OWN)
    return tmp_path


def test_the_folder_is_the_registry():
    assert set(dialect_names()) >= set(DEFAULT_DIALECTS)
    assert not {"literals", "json_calls"} & set(dialect_names())


@pytest.mark.parametrize("name", [*dialect_names(), "OWN"])
def test_a_dialect_reads_what_it_writes_and_its_own_example(name, own):
    dialect = find_dialect(f"{own}/arrow.py:Arrow" if name == "OWN" else name)
    assert all(callable(getattr(dialect, member)) for member in MEMBERS)
    assert dialect.read(dialect.write(LOOK_UP)) == ([LOOK_UP], "")
    shown = dialect.example().partition(":")[2].strip()
    assert dialect.read(shown) == ([ToolCall("look_up", {"word": "tree"})], "")
    assert dialect.read("Done (as asked).") is None
    assert dialect.read("") is None


def test_a_file_in_the_folder_is_a_dialect(tmp_path):
    (tmp_path / "arrow.py").write_text(FILE)
    code = (
        "import envgym.dialects as d, sys; d.__path__.append(sys.argv[1])\n"
        "from envgym import load_spec\n"
        "spec = load_spec('guess', ['prompt.dialects=[arrow]'])\n"
        "print(d.parse('-> guess {}', spec.prompt.dialects).calls[0].name)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
    )
    assert done.stdout == "guess\n", done.stderr


# --- a user's dialect ---


@pytest.mark.parametrize("name", ["arrow.py:Arrow", "arrow.py:ready", "plain.py:read"])
def test_a_file_beside_the_yaml_is_a_dialect(own, name):
    spec = load_spec(write(own), [f"prompt.dialects=[{name}, hermes]"])
    parsed = parse("-> look_up {}", spec.prompt.dialects)
    assert (parsed.calls, parsed.mode) == ((ToolCall("look_up", {}),), name)
    assert parse(f"<tool_call>{JSON}</tool_call>", spec.prompt.dialects).mode == "hermes"


def test_a_module_is_a_dialect(own, monkeypatch):
    monkeypatch.syspath_prepend(own)
    spec = load_spec(write(own), ["prompt.dialects=[arrow:Arrow]"])
    assert parse("-> look_up {}", spec.prompt.dialects).mode == "arrow:Arrow"


def test_an_episode_is_played_in_the_dialect_of_a_user(own):
    spec = load_spec(write(own), ["prompt.dialects=[arrow.py:Arrow]"])
    world = make_world(spec)
    try:
        episode = play(world.env(), OraclePolicy(spec.prompt.dialects[0]), seed=1)
    finally:
        world.close()
    assert episode.success
    assert any(message.content.startswith("-> ") for message in episode.messages)
    assert "Answer with: -> look_up" in episode.messages[0].content


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("arrow.py:Arow", "no 'Arow' in .*arrow.py, did you mean 'Arrow'"),
        ("arrow.py:Half", "has no function 'write'. A dialect needs read, write, example"),
        ("absent.py:Arrow", "absent.py: no such file"),
        ("no_such_module:Arrow", "module 'no_such_module' cannot be imported"),
        ("arow", "unknown tool-call dialect 'arow'.* or 'file.py:name' for your own"),
    ],
)
def test_a_wrong_reference_is_an_error(own, name, problem):
    with pytest.raises(SpecError, match=problem) as caught:
        load_spec(write(own), [f"prompt.dialects=[{name}]"])
    assert "prompt.dialects" in str(caught.value)


def test_the_texts_that_models_read_are_unchanged():
    call = '{"name": "look_up", "arguments": {"word": "tree"}}'
    assert {name: usage_example(name) for name in DEFAULT_DIALECTS} == {
        "hermes": f"To call a tool, answer with:\n<tool_call>\n{call}\n</tool_call>",
        "fenced": f"To call a tool, answer with:\n```json\n{call}\n```",
        "bare": f"To call a tool, answer with nothing but: {call}",
        "pythonic": 'To call a tool, answer with nothing but: look_up(word="tree")',
    }
