"""Run the examples of all docstrings, in a folder with the bundled environments."""

import ast
import doctest
import importlib
from pathlib import Path

import pytest

from tests.e2e.doors import ROOT, modules

FILES = {
    "tickets.csv": "text,label\n"
    + "".join(
        f'"{words} {number}","{label}"\n'
        for number in range(80)
        for words, label in (("Pay bill", "billing"), ("Restart server", "technical"))
    )
}
"""Data files that the examples read."""
WITH_EXAMPLES = sorted(name for name, file in modules().items() if ">>> " in file.read_text())


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    for name in ("envs", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    for name, text in FILES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_the_examples_of_a_module_run(name, folder):
    done = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert done.attempted
    assert not done.failed


def docstrings(file: Path):
    """Yield all docstrings of a file."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(node) or ""


def is_program(block: str) -> bool:
    """Return whether an indented block of a docstring is a program, and no formula or table."""
    try:
        nodes = list(ast.walk(ast.parse(block)))
    except SyntaxError:
        return False
    statements = ast.Import | ast.ImportFrom | ast.FunctionDef | ast.With
    methods = [node for node in nodes if isinstance(node, ast.Call)]
    return any(isinstance(node, statements) for node in nodes) or any(
        isinstance(call.func, ast.Attribute) for call in methods
    )


def test_programs_in_docstrings_are_examples_that_run():
    unchecked = []
    for name, file in modules().items():
        for text in docstrings(file):
            for block in text.split("\n\n"):
                lines = block.splitlines()
                if all(line.startswith("    ") for line in lines):
                    unindented = "\n".join(line[4:] for line in lines)
                    unchecked += [f"{name}: {block}"] if lines and is_program(unindented) else []
    assert unchecked == []
