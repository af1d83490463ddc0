"""MkDocs hook: generate the reference pages from the code at build time.

Each function `..._page` returns the Markdown of one page. Nothing generated is committed. The page
of the API contains directives of mkdocstrings, which reads the docstrings.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import inspect
import itertools
import os
import textwrap
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from dialect_reference import dialects_page  # MkDocs puts this folder on sys.path
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from yaml_reference import cell, flat, yaml_page

ROOT = Path(__file__).parents[2]
NOTE = "This page is generated from the code when the documentation is built.\n"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages to the site."""
    for name, page in PAGES.items():
        files.append(File.generated(config, f"reference/{name}.md", content=page()))
    return files


def api_page() -> str:
    """Return the page of all public names of both packages."""
    import envgym.tasksets
    import envgym_trainer

    lines = ["# Python API", "", NOTE]
    lines += ["These names are public. Every other name is private and may change.", ""]
    for package in (envgym, envgym.tasksets, envgym_trainer):
        lines += [f"## {package.__name__}", ""]
        for name in getattr(package, "__all__", ()):
            lines += [f"::: {package.__name__}.{name}", "    options: {heading_level: 3}", ""]
    return "\n".join(lines)


def cli_page() -> str:
    """Return the page of every command's help."""
    from envgym.commands import build_parser

    lines = ["# Command line", "", NOTE]
    with mock.patch.dict(os.environ, {"COLUMNS": "100", "NO_COLOR": "1"}):
        for parser in parsers_of(build_parser()):
            lines += [f"## {parser.prog}", "", "```text", parser.format_help().strip(), "```", ""]
    return "\n".join(lines)


def parsers_of(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Yield a parser and the parsers of all its commands."""
    parser.format_help()  # imports the command, which adds its arguments
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from parsers_of(command)


def metrics_page() -> str:
    """Return the page of every logged metric."""
    from envgym_trainer.run.metric_table import to_markdown

    lines = ["# Metrics", "", NOTE]
    lines += [
        "Numbers of a line of `metrics.jsonl`, which are also the curves of TensorBoard. Words in "
        "capitals stand for a name. A metric of an evaluation has the prefix `eval/`, one of a "
        "validation `val/`.",
        "",
    ]
    return "\n".join([*lines, to_markdown()])


def records_page() -> str:
    """Return the page of all records: values of the Gymnasium interface, files of a run."""
    from envgym import episode, messages, policies, terms, world
    from envgym_trainer.run.folder import RunFolder
    from envgym_trainer.run.provenance import run_facts
    from envgym_trainer.training.checkpoint import Progress

    lines = ["# Records", "", NOTE]
    lines += record("Episode", episode.Episode, "One line of `episodes.jsonl`.")
    for kind in (
        episode.Failure,
        terms.Term,
        policies.TokenTrace,
        messages.Message,
        messages.ToolCall,
        world.ResetInfo,
        world.StepInfo,
        world.TaskInfo,
        world.FailureInfo,
        world.VerificationInfo,
    ):
        lines += record(kind.__name__, kind)
    lines += ["## Run folder", "", "```text", inspect.getdoc(RunFolder) or "", "```", ""]
    lines += ["## `run.json`", "", f"{inspect.getdoc(run_facts)}", "", "```text"]
    lines += [*run_facts(seeds={}, device=""), "```", ""]
    lines += record("`progress.json` of a checkpoint", Progress)
    return "\n".join(lines)


def record(title: str, kind: type, note: str = "") -> list[str]:
    """Return the section of a dataclass or TypedDict: a table of its fields."""
    summary = (inspect.getdoc(kind) or "").strip()
    lines = [
        f"## {title}",
        "",
        note,
        "",
        summary,
        "",
        "| field | type | meaning |",
        "|---|---|---|",
    ]
    meanings = field_docstrings(kind)
    for name, hint in annotations_of(kind).items():
        row = (f"`{name}`", f"`{hint}`", flat(meanings.get(name, "")))
        lines.append(f"| {' | '.join(cell(text) for text in row)} |")
    return [*lines, ""]


def annotations_of(kind: type) -> dict[str, str]:
    """Return the annotations of a record's fields as written, inherited ones first."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        found |= {
            name: hint if isinstance(hint, str) else getattr(hint, "__forward_arg__", str(hint))
            for name, hint in vars(base).get("__annotations__", {}).items()
        }
    if not dataclasses.is_dataclass(kind):
        return found
    names = {field.name for field in dataclasses.fields(kind)}
    return {name: hint for name, hint in found.items() if name in names}


def field_docstrings(kind: type) -> dict[str, str]:
    """Return the docstrings below the fields of a class, by name."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(kind)))
    body = tree.body[0].body  # type: ignore[attr-defined]
    return {
        field.target.id: str(text.value.value)
        for field, text in itertools.pairwise(body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
    }


def errors_page() -> str:
    """Return the page of exceptions, exit codes and kinds of failures."""
    from envgym import errors

    lines = ["# Errors", "", NOTE, "## Exceptions", ""]
    for depth, kind in class_tree(errors.EnvgymError):
        if kind.__module__ == errors.__name__:
            summary = flat((inspect.getdoc(kind) or "").split("\n\n")[0])
            lines.append(f"{'    ' * depth}- `{kind.__name__}`: {summary}")
    lines += ["", "## Exit codes", "", "| code | meaning |", "|---|---|"]
    lines += [f"| {code} | {text} |" for code, text in errors.EXIT_CODES.items()]
    lines += ["", "## Failures of the environment", ""]
    lines += [
        "Kinds of `WorldFailure` and the stages in which the code raises them. They appear in "
        "`Episode.failure` and in the metrics `failures/KIND` and `failures/stage/STAGE`.",
        "",
        "| kind | stages |",
        "|---|---|",
    ]
    for kind, stages in sorted(failure_kinds().items()):
        lines.append(f"| `{kind}` | {', '.join(sorted(stages)) or 'depends on the caller'} |")
    return "\n".join(lines) + "\n"


def class_tree(kind: type, depth: int = 0) -> Iterator[tuple[int, type]]:
    """Yield a class and its subclasses with their depth, in the order of their definition."""
    yield depth, kind
    for below in kind.__subclasses__():
        yield from class_tree(below, depth + 1)


def failure_kinds() -> dict[str, set[str]]:
    """Return the stages of each kind of failure, from all calls of `WorldFailure` in the code."""
    found: dict[str, set[str]] = defaultdict(set)
    for file in sorted([*ROOT.glob("envgym/**/*.py"), *ROOT.glob("trainer/**/*.py")]):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        constants = {
            node.targets[0].id: node.value.value
            for node in tree.body
            if isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Name)
            and isinstance(node.value, ast.Constant)
        }
        for call in ast.walk(tree):
            if not (isinstance(call, ast.Call) and getattr(call.func, "id", "") == "WorldFailure"):
                continue
            kind = literal(call.args[0], constants) if call.args else ""
            if not kind:
                continue
            stage = next((word.value for word in call.keywords if word.arg == "stage"), None)
            found[kind] |= {text for text in [literal(stage, constants)] if text}
    return found


def literal(node: ast.AST | None, constants: dict[str, Any]) -> str:
    """Return the text of a constant or of a module's constant; empty for other expressions."""
    value = constants.get(node.id) if isinstance(node, ast.Name) else getattr(node, "value", "")
    return value if isinstance(value, str) else ""


PAGES: dict[str, Callable[[], str]] = {
    "api": api_page,
    "yaml": lambda: yaml_page(NOTE),
    "cli": cli_page,
    "metrics": metrics_page,
    "records": records_page,
    "errors": errors_page,
    "dialects": lambda: dialects_page(NOTE),
}
