"""Rewards: named, weighted parts that look at the evidence an episode left.

A part is a function of `Evidence` that returns a number, or None where it does not apply (then it counts for nothing, and is
logged as such). How parts make a reward is in `composition.py`. The parts that ship lie in `envgym/rewards/`, one file a
family; a folder is the registry. `declares` says what is special about one.
"""

from __future__ import annotations

import importlib
import inspect
import math
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import envgym.rewards.parts
from envgym.errors import SpecError, WorldFailure, did_you_mean
from envgym.messages import ToolCall
from envgym.rewards.parts.state_diff import RowDiff, Verdict
from envgym.sandbox import Verification
from envgym.spec.environment import EnvSpec
from envgym.spec.reward import PartSpec, Per, at_step
from envgym.spec.yaml_file import load_object
from envgym.tasks import Task
from envgym.terms import FORFEIT, Term, Terms, compose, given_up, total


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
GroupPart = Callable[[Task, Sequence[Any]], Sequence[float | None]]
"""Judges the episodes of one task together, such as by a vote: (task, episodes) -> a value for each. Training scores it; alone, an
episode has None."""


Declared = TypeVar("Declared", bound=Callable[..., Any])


def declares(
    *, grounded: bool = True, of_group: bool = False, worst: Callable[..., float] | None = None
) -> Callable[[Declared], Declared]:
    """Marks a part.

    Args:
        grounded: False for an opinion, which is not computed from what happened.
        of_group: it judges the episodes of one task together: a `GroupPart`.
        worst: (step, **options) -> the least that it says at a training step, where that is not 0.
    """

    def mark(part: Declared) -> Declared:
        for name, value in (("grounded", grounded), ("of_group", of_group), ("worst", worst)):
            setattr(part, name, value)
        return part

    return mark


@dataclass(frozen=True, slots=True)
class Score:
    """What an episode earned, and why."""

    terms: dict[str, Term]
    """Name -> each part's share, and a forfeit where there was one; the reward is the sum of their contributions."""
    success: bool

    @property
    def reward(self) -> float:
        return total(self.terms)

    @property
    def parts(self) -> dict[str, float | None]:
        """Name -> what each part said."""
        return {name: term.raw for name, term in self.terms.items() if name != FORFEIT}


@dataclass(frozen=True)
class RewardPart:
    """A part ready to be asked."""

    function: Callable[..., Any]
    """Its options are bound."""
    rule: PartSpec

    @property
    def weight(self) -> float:
        """At the start of training."""
        return at_step(self.rule.weight, 0)

    @property
    def is_grounded(self) -> bool:
        """Whether it is computed from what happened in the environment, and is no judgement."""
        declared = getattr(getattr(self.function, "func", self.function), "grounded", True)
        return declared if self.rule.grounded is None else self.rule.grounded

    def worst(self, step: int) -> float:
        """The least that it says."""
        declared = getattr(getattr(self.function, "func", self.function), "worst", None)
        return 0.0 if declared is None else declared(step, **getattr(self.function, "keywords", {}))

    @property
    def is_of_group(self) -> bool:
        return getattr(getattr(self.function, "func", self.function), "of_group", False)

    @property
    def about(self) -> str:
        """The first line of its docstring."""
        told = inspect.getdoc(getattr(self.function, "func", self.function)) or ""
        return told.splitlines()[0] if told else ""


@dataclass(frozen=True)
class Rubric:
    """The parts of one environment."""

    parts: dict[str, RewardPart]
    success: str

    @classmethod
    def from_spec(cls, spec: EnvSpec) -> Rubric:
        """Raises SpecError where a part's name leads nowhere, it has no such option, or a part of groups is asked for turn by
        turn."""
        parts = {
            name: RewardPart(
                partial(_taking(rule, find_part(rule.source, spec), name, spec), **rule.options),
                rule,
            )
            for name, rule in spec.reward.items()
        }
        for name, part in parts.items():
            if part.is_of_group and part.rule.per != "episode":
                raise SpecError(
                    f"{spec.path}: reward.{name}: compares whole episodes; it cannot be per {part.rule.per}"
                )
        return cls(parts, spec.success)

    @classmethod
    def of(cls, parts: Mapping[str, tuple[Callable[..., Any], float]], success: str) -> Rubric:
        """A rubric of functions with their weights and no further rules."""
        rule = lambda name, weight: PartSpec.model_validate({"from": name, "weight": weight})
        return cls(
            {name: RewardPart(part, rule(name, weight)) for name, (part, weight) in parts.items()},
            success,
        )

    @property
    def rules(self) -> dict[str, PartSpec]:
        return {name: part.rule for name, part in self.parts.items()}

    def named(self, *per: Per) -> dict[str, RewardPart]:
        """The parts that judge this much at a time."""
        return {name: part for name, part in self.parts.items() if part.rule.per in per}

    def score(self, evidence: Evidence, by_turn: Mapping[str, Term] | None = None) -> Score:
        """The end of an episode.

        Args:
            by_turn: the terms of parts that were paid turn by turn.
        Raises: WorldFailure (`reward_raised`) when a part raises or gives no finite number: no reward is made up.
        """
        by_turn = by_turn or {}
        whole = self.named("episode")
        said = {
            name: None if part.is_of_group else value_of(name, part.function, evidence)
            for name, part in whole.items()
        }
        raw = said | {name: term.raw for name, term in by_turn.items()}
        terms = compose({name: part.rule for name, part in whole.items()}, raw, step=evidence.step)
        terms = {
            name: terms.get(name) or by_turn[name]
            for name in self.parts
            if name in terms or name in by_turn
        }
        solved = raw[self.success]
        forbidden = bool(evidence.verdict.forbidden)
        if forbidden:
            terms[FORFEIT] = self.forfeit(terms, step=evidence.step)
        return Score(terms, success=solved is not None and solved >= 1.0 and not forbidden)

    def forfeit(self, terms: Terms, *, step: int) -> Term:
        """What takes an episode's reward down to that of a total failure, or leaves it where that is lower."""
        return Term(1.0, min(0.0, total(self.given_up(step=step)) - total(terms)), 1.0)

    def given_up(self, *, step: int) -> dict[str, Term]:
        """The terms of an episode that the policy breaks off."""
        return given_up(
            self.rules, {name: part.worst(step) for name, part in self.parts.items()}, step=step
        )


def _taking(
    rule: PartSpec, function: Callable[..., Any], name: str, spec: EnvSpec
) -> Callable[..., Any]:
    """The function, which must know every option that it is given and be given every one that it needs."""
    try:
        wanted = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # of C code
        return function
    where = f"{spec.path}: reward.{name}: '{rule.source}'"
    names = [each.name for each in wanted]
    if not any(each.kind is each.VAR_KEYWORD for each in wanted):
        for option in rule.options:
            if option not in names:
                raise SpecError(f"{where} has no option '{option}'{did_you_mean(option, names)}")
    for each in wanted:
        if (
            each.kind is each.KEYWORD_ONLY
            and each.default is each.empty
            and each.name not in rule.options
        ):
            raise SpecError(f"{where} needs an option '{each.name}'")
    return function


def value_of(name: str, part: Part, evidence: Evidence) -> float | None:
    """What a part says. Raises WorldFailure where it raises or says no finite number."""
    try:
        value = part(evidence)
        if value is None:
            return None
        value = float(value)
    except WorldFailure:
        raise
    except Exception as error:
        raise WorldFailure(
            "reward_raised", f"part '{name}': {type(error).__name__}: {error}", stage="score"
        ) from error
    if not math.isfinite(value):
        raise WorldFailure(
            "reward_raised", f"part '{name}' gave {value}, which is no finite number", stage="score"
        )
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
    modules = [
        importlib.import_module(f"envgym.rewards.parts.{m.name}")
        for m in pkgutil.iter_modules(envgym.rewards.parts.__path__)
    ]
    return {
        name: value
        for module in modules
        for name, value in vars(module).items()
        if callable(value)
        and not name.startswith("_")
        and getattr(value, "__module__", "") == module.__name__
    }
