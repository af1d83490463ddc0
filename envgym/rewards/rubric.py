"""Rewards: named, weighted parts that evaluate the evidence of an episode.

A part is a function of `Evidence` that returns a number, or None if it does not apply. A part that
does not apply adds no reward and is logged as null. Parts are combined into one reward by `Term`s.
The bundled parts are in `envgym/rewards/`, one file per family; the folder is the registry. The
decorator `reward_part` sets the properties of a part.
"""

from __future__ import annotations

import importlib
import inspect
import math
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import envgym.rewards.parts
from envgym.errors import SpecError, WorldFailure, did_you_mean
from envgym.modules import load_object
from envgym.rewards.evidence import Evidence
from envgym.rewards.scoring.llm_judge import Judges
from envgym.spec.environment import EnvSpec
from envgym.spec.reward import PartSpec, Per, at_step
from envgym.tasks import Task
from envgym.terms import PENALTY, Term, Terms, compose, failure_terms, total

Part = Callable[[Evidence], float | None]
GroupPart = Callable[[Task, Sequence[Any]], Sequence[float | None]]
"""Part that evaluates all episodes of one task together, such as a vote: (task, episodes) -> one
value per episode. Only training computes it; a single episode gets None."""


Declared = TypeVar("Declared", bound=Callable[..., Any])


def reward_part(
    *,
    grounded: bool = True,
    of_group: bool = False,
    minimum: Callable[..., float] | None = None,
    uses_judges: bool = False,
) -> Callable[[Declared], Declared]:
    """Return a decorator that sets the properties of a reward part.

    Args:
        grounded: False if the part is an opinion, not computed from events in the environment.
        of_group: Whether the part is a `GroupPart`, which evaluates all episodes of a task
            together.
        minimum: Function (step, **options) that returns the part's minimum at a training step.
            Default: 0.
        uses_judges: Pass the world's `Judges` to the part as the keyword argument `judges`.
    """

    def mark(part: Declared) -> Declared:
        marks = {"grounded": grounded, "of_group": of_group, "minimum": minimum}
        for name, value in (marks | {"uses_judges": uses_judges}).items():
            setattr(part, name, value)
        return part

    return mark


@dataclass(frozen=True, slots=True)
class Score:
    """Reward of an episode with its terms."""

    terms: dict[str, Term]
    """Term of each part by name, and a penalty if there is one. The reward is the sum of their
    contributions."""
    success: bool

    @property
    def reward(self) -> float:
        return total(self.terms)

    @property
    def parts(self) -> dict[str, float | None]:
        """Raw value of each part by name."""
        return {name: term.raw for name, term in self.terms.items() if name != PENALTY}


@dataclass(frozen=True)
class RewardPart:
    """Part whose options are bound, ready to be called."""

    function: Callable[..., Any]
    """Function of the part with its options bound."""
    rule: PartSpec

    @property
    def weight(self) -> float:
        """Weight at the start of training."""
        return at_step(self.rule.weight, 0)

    @property
    def is_grounded(self) -> bool:
        """Whether the part is computed from events in the environment and is not a judgement."""
        if self.rule.grounded is not None:
            return self.rule.grounded
        return self._mark("grounded", True)

    @property
    def is_group_part(self) -> bool:
        """Whether the part is a `GroupPart`, which evaluates all episodes of a task together."""
        return self._mark("of_group", False)

    @property
    def summary(self) -> str:
        """First line of the part's docstring; empty if there is none."""
        lines = (inspect.getdoc(self._unbound) or "").splitlines()
        return lines[0] if lines else ""

    def minimum(self, step: int) -> float:
        """Return the minimum of the part at a training step."""
        declared = self._mark("minimum", None)
        return 0.0 if declared is None else declared(step, **self.options)

    @property
    def options(self) -> dict[str, Any]:
        """Bound options, without the judges that the world adds."""
        bound = self.function.keywords if isinstance(self.function, partial) else {}
        hidden = {"judges"} if self._mark("uses_judges", False) else set()
        return {name: value for name, value in bound.items() if name not in hidden}

    @property
    def _unbound(self) -> Callable[..., Any]:
        return self.function.func if isinstance(self.function, partial) else self.function

    def _mark(self, name: str, default: Any) -> Any:
        """Return a property that `reward_part` set on the function."""
        return getattr(self._unbound, name, default)


@dataclass(frozen=True)
class Rubric:
    """All reward parts of one environment."""

    parts: dict[str, RewardPart]
    success: str
    judges: Judges = field(default_factory=Judges)
    """LLM judges of these parts, with their budgets and counts."""

    @classmethod
    def from_spec(cls, spec: EnvSpec) -> Rubric:
        """Build the rubric of an environment.

        Raises:
            SpecError: If a part or one of its options does not exist, or if a group part is not
                `per: episode`.
        """
        judges = Judges()
        parts = {
            name: RewardPart(_bound(rule, find_part(rule.source, spec), name, spec, judges), rule)
            for name, rule in spec.reward.items()
        }
        for name, part in parts.items():
            if part.is_group_part and part.rule.per != "episode":
                raise SpecError(
                    f"{spec.path}: reward.{name}: compares whole episodes; "
                    f"it cannot be per {part.rule.per}"
                )
        return cls(parts, spec.success, judges)

    @classmethod
    def of(cls, parts: Mapping[str, tuple[Callable[..., Any], float]], success: str) -> Rubric:
        """Build a rubric from functions with their weights, without any further rules."""
        rule = lambda name, weight: PartSpec.model_validate({"from": name, "weight": weight})
        return cls(
            {name: RewardPart(part, rule(name, weight)) for name, (part, weight) in parts.items()},
            success,
        )

    def close(self) -> None:
        """Close the judges."""
        self.judges.close()

    @property
    def rules(self) -> dict[str, PartSpec]:
        return {name: part.rule for name, part in self.parts.items()}

    def named(self, *per: Per) -> dict[str, RewardPart]:
        """Return the parts whose rule has one of these values of `per`."""
        return {name: part for name, part in self.parts.items() if part.rule.per in per}

    def score(self, evidence: Evidence, by_turn: Mapping[str, Term] | None = None) -> Score:
        """Compute the score at the end of an episode.

        Args:
            evidence: Evidence of the whole episode.
            by_turn: Terms of the parts that were paid turn by turn.

        Raises:
            WorldFailure: If a part raises or returns no finite number (kind `reward_raised`). No
                substitute value is used.
        """
        by_turn = by_turn or {}
        whole = self.named("episode")
        values = {
            name: None if part.is_group_part else value_of(name, part.function, evidence)
            for name, part in whole.items()
        }
        raw = values | {name: term.raw for name, term in by_turn.items()}
        terms = compose({name: part.rule for name, part in whole.items()}, raw, step=evidence.step)
        terms = {
            name: terms.get(name) or by_turn[name]
            for name in self.parts
            if name in terms or name in by_turn
        }
        solved = raw[self.success]
        forbidden = bool(evidence.verdict.forbidden)
        if forbidden:
            terms[PENALTY] = self.penalty(terms, step=evidence.step)
        return Score(terms, success=solved is not None and solved >= 1.0 and not forbidden)

    def penalty(self, terms: Terms, *, step: int) -> Term:
        """Return the penalty that lowers the reward to the failure reward.

        The penalty is 0 if the reward is already lower.
        """
        return Term(1.0, min(0.0, total(self.failure_terms(step=step)) - total(terms)), 1.0)

    def failure_terms(self, *, step: int) -> dict[str, Term]:
        """Return the reward terms of an aborted episode."""
        return failure_terms(
            self.rules, {name: part.minimum(step) for name, part in self.parts.items()}, step=step
        )


def _bound(
    rule: PartSpec, function: Callable[..., Any], name: str, spec: EnvSpec, judges: Judges
) -> Callable[..., Any]:
    """Return `function` with the options of the rule bound.

    Raises:
        SpecError: If an option is unknown to the function or a required option is missing.
    """
    given = {"judges": judges} if getattr(function, "uses_judges", False) else {}
    bound = partial(function, **{**rule.options, **given})
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # C functions may have no signature
        return bound
    wanted = [each for each in parameters if each.name not in given]
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
    return bound


def value_of(name: str, part: Part, evidence: Evidence) -> float | None:
    """Return the value of a part, or None if it does not apply.

    Raises:
        WorldFailure: If the part raises or returns no finite number.
    """
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
    """Return the function of a part such as `state_match` or `file.py:function`.

    Raises:
        SpecError: If there is no such part.
    """
    if ":" in source:
        return load_object(source, spec.root)
    shipped = shipped_parts()
    if source not in shipped:
        raise SpecError(
            f"{spec.path}: reward: no part '{source}'{did_you_mean(source, shipped)}. "
            f"Shipped: {', '.join(sorted(shipped))}"
        )
    return shipped[source]


def shipped_parts() -> dict[str, Callable[..., Any]]:
    """Return the function of every part in `envgym/rewards/`, by name."""
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
