"""Reward rules of a run, read from its settings and the environment's current files.

Used by `explain.py`. Imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from envgym.errors import SpecError
from envgym.rewards.rubric import RewardPart, find_part
from envgym.spec.environment import EnvSpec
from envgym.spec.reward import PartSpec
from envgym.spec.yaml_file import read_yaml, validate
from envgym_trainer.run.folder import RunFolder


@dataclass(frozen=True, slots=True)
class Rule:
    """Description of a reward part, read from the run's settings and the environment's files."""

    spec: PartSpec
    about: str = ""
    """First line of the part's docstring; empty if its code cannot be loaded."""
    is_grounded: bool | None = None
    """Whether the part depends on the environment's state; `None` if unknown."""
    is_of_group: bool = False


@dataclass(frozen=True, slots=True)
class Rules:
    """Reward rules of one run."""

    parts: dict[str, Rule]
    warmup_steps: int = 0
    """Supervised steps before the first GRPO step. Schedules of weights begin after them."""
    is_foreign: bool = False
    notes: tuple[str, ...] = ()
    """Warnings about rules that could not be loaded, each with its remedy."""

    @classmethod
    def of(cls, folder: RunFolder) -> Rules:
        """Load the rules of a run. If they cannot be read, return empty rules with a note."""
        env = Path(folder.facts().get("env") or folder.config_file)
        try:
            data, where = read_yaml(folder.config_file)
            spec = validate(EnvSpec, data | {"path": env}, where)
        except SpecError as error:
            return cls(
                {},
                notes=(
                    "The rules of this run cannot be read, so only recorded numbers are shown: "
                    f"{error}",
                ),
            )
        warmup = spec.train.get("warm_start") or {}
        steps = -(-int(warmup.get("episodes", 0)) // int(warmup.get("episodes_per_step", 16)))
        notes: list[str] = []
        parts = (
            {name: _rule(name, rule, spec, notes) for name, rule in spec.reward.items()}
            if not spec.is_foreign
            else {}
        )
        return cls(parts, steps, spec.is_foreign, tuple(notes))


def _rule(name: str, rule: PartSpec, spec: EnvSpec, notes: list[str]) -> Rule:
    try:
        part = RewardPart(partial(find_part(rule.source, spec), **rule.options), rule)
    except SpecError as error:
        notes.append(
            f"No description of part '{name}' ({error}). Restore the environment's files, or run "
            "this command in the folder in which the run was started."
        )
        return Rule(rule, is_grounded=rule.grounded)
    return Rule(rule, part.summary, part.is_grounded, part.is_group_part)
