"""Rules of a run's reward parts, read as data: no code of the run or its environment is executed.

The settings are those of `config.yaml` and the recorded changes. Descriptions of parts in Python
files are read from their syntax tree, and only from the files of an environment that the user
named, or of the bundled environment with the run's id: a run folder may come from somebody else.
"""

from __future__ import annotations

import ast
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from envgym.errors import SpecError
from envgym.rewards.rubric import RewardPart, shipped_parts
from envgym.spec.catalog import bundled_envs, find_env, read_env_id
from envgym.spec.reward import PartSpec
from envgym.spec.yaml_file import apply_overrides, read_yaml, validate
from envgym_trainer.run.folder import RunFolder


@dataclass(frozen=True, slots=True)
class Rule:
    """Description of a reward part."""

    spec: PartSpec
    about: str = ""
    """First line of the part's docstring; empty if it has none or its code was not read."""
    is_grounded: bool | None = None
    """Whether the part depends on the environment's state; `None` if unknown."""
    is_of_group: bool = False
    is_read: bool = True
    """Whether its code was read."""


@dataclass(frozen=True, slots=True)
class Rules:
    """Reward rules of one run."""

    parts: dict[str, Rule]
    warmup_steps: int = 0
    """Supervised steps before the first GRPO step. Schedules of weights begin after them."""
    is_foreign: bool = False
    notes: tuple[str, ...] = ()
    """Warnings about rules that could not be read, each with its remedy."""

    @classmethod
    def of(cls, folder: RunFolder, *, step: int | None = None, env: str | None = None) -> Rules:
        """Read the rules of a run. If they cannot be read, return empty rules with a note.

        Args:
            folder: Folder of the run.
            step: Step whose settings are wanted. Default: the last one.
            env: Environment that the user named.

        Raises:
            SpecError: If there is no such environment.
        """
        file = None if env is None else find_env(env)
        try:
            settings = settings_of(folder, step)
        except (SpecError, LookupError, TypeError) as error:
            note = "The rules of this run cannot be read, so only recorded numbers are shown"
            return cls({}, notes=(f"{note}: {error}",))
        steps = settings.train.warm_start.steps
        if settings.gym is not None:
            return cls({}, steps, is_foreign=True)
        file = file or bundled_file(settings.id)
        parts = {name: _rule(rule, file) for name, rule in settings.reward.items()}
        return cls(parts, steps, notes=tuple(_notes(parts, file, folder)))


class _Data(BaseModel):
    """Part of `config.yaml`. Other keys are ignored: to check them could load code."""

    model_config = ConfigDict(extra="ignore")


class _WarmStart(_Data):
    episodes: int = Field(default=0, ge=0)
    episodes_per_step: int = Field(default=16, ge=1)

    @property
    def steps(self) -> int:
        return math.ceil(self.episodes / self.episodes_per_step)


class _Train(_Data):
    warm_start: _WarmStart = _WarmStart()


class _Settings(_Data):
    id: str
    gym: str | None = None
    reward: dict[str, PartSpec] = Field(default_factory=dict)
    train: _Train = _Train()


def settings_of(folder: RunFolder, step: int | None) -> _Settings:
    """Return those settings of a run that explain its rewards, at a step, as plain data."""
    data, where = read_yaml(folder.config_file)
    apply_overrides(data, where, folder.changes(step))
    return validate(_Settings, data, where)


def bundled_file(env_id: str) -> Path | None:
    """Return the YAML file of the bundled environment with this id, or None."""
    return next((file for file in bundled_envs().values() if read_env_id(file) == env_id), None)


def _notes(parts: dict[str, Rule], file: Path | None, folder: RunFolder) -> Iterator[str]:
    unknown = [f"{name} ({rule.spec.source})" for name, rule in parts.items() if not rule.is_read]
    if unknown and file is None:
        yield (
            f"No description of {', '.join(unknown)}: no code of a run folder is loaded. To read "
            f"it in your files, name the environment: envgym explain {folder.path} EPISODE --env "
            "ENV.yaml"
        )
    elif unknown:
        yield f"No description of {', '.join(unknown)}: not found in the files of {file}."


def _rule(rule: PartSpec, file: Path | None) -> Rule:
    if ":" not in rule.source:
        return _shipped_rule(rule)
    found = None if file is None else _find(rule.source, file.absolute().parent)
    if found is None:
        return Rule(rule, is_grounded=rule.grounded, is_read=False)
    marks = _marks(*found)
    grounded = marks.get("grounded", True) if rule.grounded is None else rule.grounded
    lines = (ast.get_docstring(found[0]) or "").splitlines()
    return Rule(rule, lines[0] if lines else "", bool(grounded), bool(marks.get("of_group")))


def _shipped_rule(rule: PartSpec) -> Rule:
    function = shipped_parts().get(rule.source)
    if function is None:
        return Rule(rule, is_grounded=rule.grounded)
    part = RewardPart(partial(function, **rule.options), rule)
    return Rule(rule, part.summary, part.is_grounded, part.is_group_part)


def _find(source: str, root: Path) -> tuple[ast.FunctionDef, ast.Module] | None:
    """Return the definition that `file.py:name` or `package.module:name` names, and its file."""
    place, _, name = source.rpartition(":")
    file = root / place if place.endswith(".py") else _module_file(place)
    if file is None or not file.resolve().is_file():
        return None
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, SyntaxError, RecursionError):
        return None
    functions = (node for node in tree.body if isinstance(node, ast.FunctionDef))
    return next(((node, tree) for node in functions if node.name == name), None)


def _module_file(name: str) -> Path | None:
    """Return the file of a module. It is not imported, nor are its packages."""
    parts = name.split(".")
    if not all(part.isidentifier() for part in parts):
        return None
    for place in sys.path:
        top = Path(place, *parts)
        for file in (top.with_name(f"{top.name}.py"), top / "__init__.py"):
            if file.is_file():
                return file
    return None


def _marks(function: ast.FunctionDef, tree: ast.Module) -> dict[str, Any]:
    """Return the constant properties of a part, from `@reward_part(...)` or `name.key = value`."""
    decorators = [node for node in function.decorator_list if isinstance(node, ast.Call)]
    found = [
        (keyword.arg, keyword.value)
        for decorator in decorators
        if ast.unparse(decorator.func).endswith("reward_part")
        for keyword in decorator.keywords
    ]
    found += [
        (target.attr, node.value)
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Attribute) and ast.unparse(target.value) == function.name
    ]
    return {key: value.value for key, value in found if key and isinstance(value, ast.Constant)}
