"""Rewards: named, weighted parts that look at the evidence an episode left.

A part is a function of `Evidence` that returns a number, or None where it does not apply (then it counts for nothing, and is
logged as such). The reward is the weighted sum; a part of weight 0 is a metric. The parts that ship lie in `envgym/rewards/`,
one file a family; a folder is the registry.
"""

from __future__ import annotations

import importlib
import math
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import envgym.rewards
from envgym.errors import SpecError, WorldFailure, did_you_mean
from envgym.loading import load_object
from envgym.messages import ToolCall
from envgym.sandbox import Verification
from envgym.spec import EnvSpec
from envgym.state import RowDiff, Verdict
from envgym.tasks import Task


@dataclass(frozen=True, slots=True)
class CallRecord:
    """One tool call that was attempted."""

    turn: int
    call: ToolCall
    ok: bool
    """False when it was refused: unknown tool, wrong argument, or the tool's own refusal."""
    text: str
    """What the model was told."""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that a reward may look at: what was asked, what was done, what changed, what was said last."""

    task: Task
    calls: tuple[CallRecord, ...]
    rows: tuple[RowDiff, ...]
    """Every row that changed."""
    verdict: Verdict
    """The rows that changed against those the task expected."""
    final: str
    """The last message, when it was an answer without a tool call; else empty."""
    turns: int
    parse_modes: dict[str, int]
    """How often each dialect was read from the turns; `none` is plain text, `invalid` a malformed call."""
    verification: Verification | None = None
    """What the task's hidden test command said; None for a task without one."""
    said: tuple[str, ...] = ()
    """What the model wrote at each turn, to the letter."""
    step: int = 0
    """The training step that the episode is played for, for parts with a schedule of their own; 0 outside of training."""


Part = Callable[[Evidence], float | None]


@dataclass(frozen=True, slots=True)
class Score:
    """What an episode earned, and why."""

    reward: float
    """Weighted sum of the parts that apply; 0 when a forbidden table was changed."""
    parts: dict[str, float | None]
    """Name -> unweighted value."""
    success: bool


@dataclass(frozen=True)
class Rubric:
    """The parts of one environment with their weights."""

    parts: dict[str, tuple[Part, float]]
    success: str

    @classmethod
    def from_spec(cls, spec: EnvSpec) -> Rubric:
        """Raises SpecError where a part's name leads nowhere."""
        parts = {}
        for name, part in spec.reward.items():
            function = partial(find_part(part.source, spec), **part.options)
            parts[name] = (function, part.weight)
        return cls(parts, spec.success)

    def score(self, evidence: Evidence) -> Score:
        """Raises WorldFailure (`reward_raised`) when a part raises or gives no finite number: no reward is made up."""
        values = {name: _value(name, part, evidence) for name, (part, _) in self.parts.items()}
        total = sum(weight * value for name, (_, weight) in self.parts.items() if (value := values[name]) is not None)
        solved = values[self.success]
        return Score(
            reward=0.0 if evidence.verdict.forbidden else total,
            parts=values,
            success=solved is not None and solved >= 1.0 and not evidence.verdict.forbidden,
        )


def _value(name: str, part: Part, evidence: Evidence) -> float | None:
    try:
        value = part(evidence)
        if value is None:
            return None
        value = float(value)
    except Exception as error:
        raise WorldFailure("reward_raised", f"part '{name}': {type(error).__name__}: {error}", stage="score") from error
    if not math.isfinite(value):
        raise WorldFailure("reward_raised", f"part '{name}' gave {value}, which is no finite number", stage="score")
    return value


def find_part(source: str, spec: EnvSpec) -> Callable[..., float | None]:
    """The function behind `state_match` or `file.py:function`. Raises SpecError."""
    if ":" in source:
        return load_object(source, spec.root)
    shipped = shipped_parts()
    if source not in shipped:
        raise SpecError(
            f"{spec.path}: reward: no part '{source}'{did_you_mean(source, shipped)}. Shipped: {', '.join(sorted(shipped))}"
        )
    return shipped[source]


def shipped_parts() -> dict[str, Callable[..., Any]]:
    """Name -> function of every part in `envgym/rewards/`."""
    modules = [importlib.import_module(f"envgym.rewards.{m.name}") for m in pkgutil.iter_modules(envgym.rewards.__path__)]
    return {
        name: value
        for module in modules
        for name, value in vars(module).items()
        if callable(value) and not name.startswith("_") and getattr(value, "__module__", "") == module.__name__
    }
