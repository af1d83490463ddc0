"""Find the commands of `envgym`: files of a folder, read without importing them.

A file `NAME.py` that defines `run(arguments)` is a command. `add(parser)` adds its arguments, its
docstring is its help, and the constant `EXAMPLE` is an example for the help.

A folder whose `__init__.py` defines `run` is a command with helpers; without `run` it is a group,
and its files are the group's commands. Files without `run` are helpers. Commands come from this
folder, from packages of the entry-point group `envgym.commands`, and from ENVGYM_COMMANDS: files,
folders and modules (`my_command.py`, `my_commands/`, `package.module`), separated by ":".
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from types import ModuleType

from envgym.errors import PrerequisiteError, SpecError, UsageError

VARIABLE = "ENVGYM_COMMANDS"


@dataclass(frozen=True)
class CommandFile:
    """File of a command, or folder of a command or of a group of commands."""

    path: Path
    module: str = ""
    """Full name of the module. Empty for a file outside of packages."""

    @property
    def name(self) -> str:
        """Name on the command line."""
        return self.path.stem.replace("_", "-")

    @property
    def summary(self) -> str:
        """First paragraph of the docstring, for the list of commands."""
        return " ".join(self.description.split("\n\n")[0].split())

    @property
    def description(self) -> str:
        """Docstring of the file."""
        return ast.get_docstring(self._tree) or ""

    @property
    def is_command(self) -> bool:
        return any(isinstance(each, ast.FunctionDef) and each.name == "run" for each in self._body)

    @property
    def is_group(self) -> bool:
        return self.path.is_dir() and not self.is_command

    def commands(self) -> dict[str, CommandFile]:
        """Return the commands of a group, by name."""
        return {command.name: command for command in commands_of_folder(self.path, self.module)}

    def load(self) -> ModuleType:
        """Import the file.

        Raises:
            PrerequisiteError: If a package that the command needs is not installed.
            SpecError: If the file of a user fails on import.
            UsageError: If the file has no function `add`.
        """
        module = self._import()
        if not hasattr(module, "add"):
            raise UsageError(
                f"{self.path}: the command '{self.name}' has no function add(parser). Add one; "
                "for a command without arguments its body is `pass`"
            )
        return module

    def _import(self) -> ModuleType:
        if not self.module:
            from envgym.modules import load_file

            return load_file(self.path)
        try:
            return importlib.import_module(self.module)
        except ImportError as error:
            raise PrerequisiteError(
                f"the command '{self.name}' needs {error.name or error}. "
                "Install it: pip install 'envgym[train]'"
            ) from error

    @property
    def _body(self) -> list[ast.stmt]:
        return self._tree.body

    @cached_property
    def _tree(self) -> ast.Module:
        file = self.path / "__init__.py" if self.path.is_dir() else self.path
        try:
            return ast.parse(file.read_text(encoding="utf-8"))
        except (OSError, SyntaxError, ValueError) as error:
            raise SpecError(f"{file}: cannot be read as a command: {error}") from None


def find_commands() -> dict[str, CommandFile]:
    """Return all commands and groups by name, those of envgym first.

    Raises:
        UsageError: If two files have the same name, or ENVGYM_COMMANDS names no command.
        SpecError: If a file cannot be parsed.
    """
    found: dict[str, CommandFile] = {}
    for command in _all_commands():
        if command.name in found:
            raise UsageError(
                f"two commands are named '{command.name}': {found[command.name].path} and "
                f"{command.path}. Rename one of the files"
            )
        found[command.name] = command
    return found


def _all_commands() -> Iterator[CommandFile]:
    yield from commands_of_folder(Path(__file__).parent, __package__ or "")
    for point in sorted(metadata.entry_points(group="envgym.commands"), key=lambda each: each.name):
        yield from _commands_of_module(point.value)
    for source in filter(None, os.environ.get(VARIABLE, "").split(os.pathsep)):
        yield from _commands_of_source(source)


def commands_of_folder(folder: Path, package: str = "") -> Iterator[CommandFile]:
    """Yield the commands and groups of a folder, in the order of their names.

    Args:
        folder: Folder with the files.
        package: Name of the folder's package. Empty if the folder is no package.
    """
    for path in sorted(folder.iterdir()):
        is_package = path.is_dir() and (path / "__init__.py").is_file()
        if path.name == "__init__.py" or not (is_package or path.suffix == ".py"):
            continue
        command = CommandFile(path, f"{package}.{path.stem}" if package else "")
        if command.is_command or is_package:
            yield command


def _commands_of_source(source: str) -> Iterator[CommandFile]:
    path = Path(source)
    if path.is_dir():
        commands = list(commands_of_folder(path.resolve()))
    elif path.suffix == ".py":
        commands = [CommandFile(path.resolve())]
    else:
        commands = list(_commands_of_module(source))
    if not commands or not all(command.is_command or command.is_group for command in commands):
        raise UsageError(
            f"{VARIABLE}: {source} defines no command. A command is a Python file with the "
            "functions add(parser) and run(arguments)"
        )
    yield from commands


def _commands_of_module(name: str) -> Iterator[CommandFile]:
    """Yield the commands of a package, or the one of a module."""
    try:
        spec = importlib.util.find_spec(name)
    except ImportError:
        spec = None
    if spec is None or not spec.origin:
        raise UsageError(
            f"commands: there is no module '{name}'. Correct {VARIABLE}, or the entry point in "
            "the group envgym.commands of the package that names it"
        )
    file = Path(spec.origin)
    if file.name != "__init__.py":
        yield CommandFile(file, name)
        return
    whole = CommandFile(file.parent, name)
    yield from [whole] if whole.is_command else commands_of_folder(file.parent, name)
