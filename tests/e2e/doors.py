"""Table of the rooms and their order, limits, and the exceptions that are still allowed."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
FILES = 25
"""Maximum number of Python files in one folder of a package."""
LINES = 350
"""Maximum number of lines of a Python file."""
COLUMNS = 100
"""Maximum length of a line."""

GYM = (
    ("envgym.commands",),
    ("envgym.evaluation",),
    ("envgym.registration", "envgym.playing"),
    ("envgym.env", "envgym.bridges", "envgym.record"),
    ("envgym.failures",),
    ("envgym.tool_episode",),
    ("envgym.tasksets",),
    ("envgym.tool_sandbox",),
    ("envgym.rewards",),
    ("envgym.episode",),
    ("envgym.policies", "envgym.terms"),
    ("envgym.spec", "envgym.world", "envgym.replaying"),
    ("envgym.sandbox", "envgym.dialects", "envgym.tasks", "envgym.tools"),
    ("envgym.http_client", "envgym.modules", "envgym.causes", "envgym.argument_values"),
    ("envgym.block", "envgym.errors", "envgym.messages", "envgym.spaces", "envgym.values"),
    ("envgym.text",),
    ("envgym.secrets",),
    ("envgym.sandbox.agent",),
)
"""Rooms and flat files of the gym, top first. Each may import those of lower layers."""

TRAINER = (
    ("envgym_trainer.commands",),
    ("envgym_trainer.serving", "envgym_trainer.training"),
    ("envgym_trainer.preflight",),
    ("envgym_trainer.rollout",),
    ("envgym_trainer.inference",),
    ("envgym_trainer.learner",),
    ("envgym_trainer.algorithms", "envgym_trainer.model"),
    ("envgym_trainer.run",),
    ("envgym_trainer.batch", "envgym_trainer.config"),
    ("envgym_trainer.files",),
)
"""Rooms and flat files of the trainer, top first. Each may import those of lower layers."""

AGENT = "envgym.sandbox.agent"

EXCEPTIONS: dict[str, set[str]] = {
    "upwards": set(),
    "rooms that import each other": set(),
    "files that import each other": set(),
    "long files": set(),
    "files with long lines": set(),
    "untyped worlds and engines": set(),
}
"""Known exceptions by rule. Do not add to them. Remove an exception when it is repaired."""


def python_files(*folders: str) -> list[Path]:
    """Return all Python files of these folders, by default of the whole project."""
    tops = folders or ("envgym", "trainer", "envs", "benchmarks", "examples", "docs", "tests")
    return sorted(file for top in tops for file in (ROOT / top).rglob("*.py"))


def modules() -> dict[str, Path]:
    """Return the file of each module of both packages."""
    found = {}
    for base, package in ((ROOT, "envgym"), (ROOT / "trainer", "envgym_trainer")):
        for file in (base / package).rglob("*.py"):
            parts = file.relative_to(base).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def import_graph() -> dict[str, set[str]]:
    """Return the modules of the project that each module imports, also inside functions.

    Imports for type checkers only are left out: they do not exist when the program runs.
    """
    known = modules()
    graph = {}
    for module, file in known.items():
        targets = set()
        for name in imported_names(ast.parse(file.read_text(encoding="utf-8"))):
            while name and name not in known:
                name = name.rpartition(".")[0]
            targets.add(name)
        graph[module] = targets - {"", module, "envgym", "envgym_trainer"}
    return graph


def imported_names(node: ast.AST):
    """Yield full names of all imports below a node, `from a import b` as `a.b`."""
    if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
        return
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and not node.level:
        yield from (f"{node.module}.{alias.name}" for alias in node.names)
    for child in ast.iter_child_nodes(node):
        yield from imported_names(child)


def room_of(module: str) -> str:
    """Return the room of a module: its package and the first folder or file below it.

    The agent is a room of its own, because it runs alone in a box.
    """
    if module.startswith(AGENT):
        return AGENT
    return ".".join(module.split(".")[:2])
