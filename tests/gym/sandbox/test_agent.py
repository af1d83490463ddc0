"""The agent without a sandbox: loading an app, describing it, table images, diffs and calls."""

import sys
from typing import Any, Literal

import pytest

from envgym.sandbox.agent import (
    AppError,
    describe_tool,
    load_app,
    load_module,
)
from tests.gym.sandbox.agent_files import write


def parameters_of(function) -> dict[str, Any]:
    return describe_tool(function)["parameters"]


def kinds(
    db,
    now: str,
    text: str,
    count: int,
    share: float,
    sure: bool,
    field: Literal["phone", "email"],
    tags: list[str],
    rows: list[dict[str, int]],
    free: dict,
    note: str | None = None,
    level: Literal[1, 2] | None = 2,
) -> str:
    """One of each.

    Second paragraph,
    on two lines.

    Args:
        db: never shown.
        text (str): Any text:
            even on two lines.
        count: A number
    Returns: nothing of interest.
    Raises:
        ValueError: never.
    """
    return ""


def test_a_signature_becomes_a_schema():
    described = describe_tool(kinds)
    assert described["name"] == "kinds"
    assert described["description"] == "One of each.\nSecond paragraph, on two lines."
    assert described["parameters"] == {
        "type": "object",
        "properties": {
            "text": {"type": "string", "description": "Any text: even on two lines."},
            "count": {"type": "integer", "description": "A number"},
            "share": {"type": "number"},
            "sure": {"type": "boolean"},
            "field": {"type": "string", "enum": ["phone", "email"]},
            "tags": {"type": "array", "items": {"type": "string"}},
            "rows": {
                "type": "array",
                "items": {"type": "object", "additionalProperties": {"type": "integer"}},
            },
            "free": {"type": "object"},
            "note": {"type": ["string", "null"], "default": None},
            "level": {"type": ["integer", "null"], "enum": [1, 2, None], "default": 2},
        },
        "required": ["text", "count", "share", "sure", "field", "tags", "rows", "free"],
        "additionalProperties": False,
    }


def no_annotation(x):
    """Doc."""


def odd_annotation(x: complex):
    """Doc."""


def two_types(x: int | str):
    """Doc."""


def unknown_name(x: "Nonsense"):  # type: ignore[name-defined]  # noqa: F821
    """Doc."""


def star(*x: int):
    """Doc."""


def odd_default(x: dict = {1, 2}):  # type: ignore[assignment]  # noqa: B006
    """Doc."""


def wrong_words(x: int):
    """Doc.

    Args:
        y: a misspelt x.
    """


async def asynchronous(x: int):
    """Doc."""


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (no_annotation, "'no_annotation': parameter 'x': has no type annotation"),
        (odd_annotation, "'odd_annotation': parameter 'x': 'x: complex' has no JSON schema"),
        (two_types, "'two_types': parameter 'x': 'x: int | str' has no JSON schema"),
        (
            unknown_name,
            "'unknown_name': an annotation cannot be read: name 'Nonsense' is not defined",
        ),
        (star, "'star': parameter 'x': a tool takes named parameters only"),
        (odd_default, "'odd_default': parameter 'x': 'x: dict = {1, 2}' has no JSON schema"),
        (wrong_words, "'wrong_words': its docstring describes 'y', which is not a parameter"),
        (asynchronous, "'asynchronous': is async"),
    ],
)
def test_what_has_no_schema_is_an_error_that_names_file_tool_and_parameter(function, why):
    with pytest.raises(AppError) as caught:
        describe_tool(function)
    assert f"{__file__}: tool {why}" in str(caught.value)


# --- loading ---


TOOL = 'def {name}() -> str:\n    """Doc."""\n    return "{name}"\n'


def test_two_apps_may_each_have_a_sibling_of_the_same_name(tmp_path):
    tools = 'import words\n\ndef say() -> str:\n    """Doc."""\n    return words.WORD\n'
    for app in ("one", "two"):
        write(tmp_path, {f"{app}/tools.py": tools, f"{app}/words.py": f"WORD = '{app}'\n"})
    said = [load_app(tmp_path, [f"{app}/tools.py"]).tools["say"]() for app in ("one", "two")]
    assert said == ["one", "two"]
    assert "words" not in sys.modules


def test_files_of_one_app_share_their_siblings(tmp_path):
    write(tmp_path, {"a.py": "import words", "b.py": "import words", "words.py": ""})
    assert load_module(tmp_path / "a.py").words is load_module(tmp_path / "b.py").words


def test_a_dataclass_with_postponed_annotations_loads(tmp_path):
    text = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass A:\n    x: int\n"
    )
    assert load_module(write(tmp_path, {"a.py": text}) / "a.py").A(1).x == 1


def test_one_function_of_a_file_can_be_named(tmp_path):
    write(tmp_path, {"tools.py": TOOL.format(name="first") + TOOL.format(name="second")})
    assert list(load_app(tmp_path, ["tools.py:second"]).tools) == ["second"]


F = TOOL.format(name="f")


@pytest.mark.parametrize(
    ("files", "arguments", "why"),
    [
        ({}, (["gone.py"],), "gone.py: no such Python file"),
        ({"tools.py": "def f(): pass"}, (["tools.py"],), "tools.py: defines no tool"),
        (
            {"tools.py": TOOL.format(name="first")},
            (["tools.py:frist"],),
            "no function 'frist', did you mean 'first'",
        ),
        ({"a.py": F, "b.py": F}, (["a.py", "b.py"],), "two files define a tool named 'f'"),
        ({"tools.py": "def f(:"}, (["tools.py"],), "tools.py: cannot be imported"),
        ({"tools.py": F}, (["tools.py"], "gone.sql"), "gone.sql: cannot read the schema"),
        ({"tools.py": F, "s.sql": "CREATE TABEL x"}, (["tools.py"], "s.sql"), 'near "TABEL"'),
    ],
)
def test_a_wrong_app_is_an_error_that_names_the_file(tmp_path, files, arguments, why):
    write(tmp_path, files)
    with pytest.raises(AppError) as caught:
        load_app(tmp_path, *arguments)
    assert why in str(caught.value)
