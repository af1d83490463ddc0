"""`envgym explain`: what an episode's reward and advantage are made of, part by part, for people who must stand by them.

Numbers come from the run's record alone, rules from its `config.yaml`, their words from the environment's files as they are now,
where they still are. Nothing is scored again. Left out: how shares of an advantage are worked out (`breakdown.py`).
Imports no torch.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from envgym.episode import Episode
from envgym.errors import SpecError, UsageError
from envgym.rewards.rubric import RewardPart, find_part
from envgym.spec.environment import EnvSpec
from envgym.spec.reward import PartSpec, at_step
from envgym.spec.yaml_file import read_yaml, validate
from envgym.terms import FORFEIT, Term
from envgym_trainer.run.folder import RunFolder

NAME = re.compile(r"(\d+):(\d+)")
OTHERS = {
    FORFEIT: "What takes away the reward of an episode that did what is forbidden, or was given up.",
    "reward": "The whole reward of a foreign environment, which does not tell its parts.",
    "rest": "What an advantage has beyond its terms, which do not enter it in proportion.",
    "overlong": "The algorithm's penalty on answers near the limit of tokens; no part of the reward.",
    "mistakes": "The algorithm's penalty on refused or unreadable tool calls; no part of the reward.",
}
"""Name -> rule of what may stand beside the environment's own parts."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What a part is, as far as the run's settings and the environment's files tell."""

    spec: PartSpec
    about: str = ""
    """First line of the part's docstring; empty where its code is gone."""
    is_grounded: bool | None = None
    """None where its code is gone and the settings do not say."""
    is_of_group: bool = False


@dataclass(frozen=True, slots=True)
class Rules:
    """Those of one run."""

    parts: dict[str, Rule]
    warmup_steps: int = 0
    """Steps before the first that has rewards; schedules of weights begin after them."""
    is_foreign: bool = False
    notes: tuple[str, ...] = ()
    """What could not be had, and the way out."""

    @classmethod
    def of(cls, folder: RunFolder) -> Rules:
        """Never fails: a run whose environment is gone still has its record."""
        env = Path(folder.facts().get("env") or folder.config_file)
        try:
            data, where = read_yaml(folder.config_file)
            spec = validate(EnvSpec, data | {"path": env}, where)
        except SpecError as error:
            return cls(
                {},
                notes=(
                    f"The rules of this run cannot be read, what follows is the record alone: {error}",
                ),
            )
        warmup = spec.train.get("warmup") or {}
        steps = -(-int(warmup.get("demos", 0)) // int(warmup.get("demos_per_step", 16)))
        notes: list[str] = []
        parts = (
            {name: _rule(name, rule, spec, notes) for name, rule in spec.reward.items()}
            if not spec.gym
            else {}
        )
        return cls(parts, steps, spec.gym is not None, tuple(notes))


def _rule(name: str, rule: PartSpec, spec: EnvSpec, notes: list[str]) -> Rule:
    try:
        part = RewardPart(partial(find_part(rule.source, spec), **rule.options), rule)
    except SpecError as error:
        notes.append(
            f"No words for part '{name}' ({error}). Put the environment's files back, or start where it was trained."
        )
        return Rule(rule, is_grounded=rule.grounded)
    return Rule(rule, part.about, part.is_grounded, part.is_of_group)


@dataclass(frozen=True, slots=True)
class Line:
    """One part in one episode. Fields are None where nothing is known, or nothing was said."""

    name: str
    rule: str
    source: str | None
    """The `from` of the settings."""
    is_grounded: bool | None
    raw: float | None
    value: float | None
    range: tuple[float, float] | None
    """In force at the episode's step; None where the rule is unknown."""
    clip: tuple[float, float] | None
    scale: str | None
    weight: float | None
    weight_of_config: float | None
    """What the settings say for this step; `weight` differs from it where training weighed the part anew."""
    schedule: dict[int, float] | None
    """Of the weight, by training step; None where it is one number."""
    gate: dict[str, Any] | None
    """`on`, `at_least` (both None where the rule is unknown), `is_open`; None without a gate."""
    contribution: float | None
    """To the reward; None for what changes the advantage only."""
    advantage: float | None
    """Share of the advantage; None where the episode was not learned from."""
    by_turn: tuple[float, ...] = ()
    siblings: tuple[dict[str, Any], ...] = ()
    """Of a part of a group: `episode`, `said`, `raw`, `value` of each member, this one among them."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """One episode. The contributions of `parts` sum to `reward`, their advantages to `advantage`."""

    run: str
    episode: str
    step: int
    schedule_step: int
    """Training steps before it, the warm start not counted: where schedules are looked up."""
    task: str
    level: str
    asked: str
    said: str
    success: bool | None
    stop_reason: str
    reward: float | None
    advantage: float | None
    left_out: str
    """Why it was not learned from, where the record says so."""
    failure: str
    """How the world broke, for a void episode."""
    parts: tuple[Line, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Overview:
    """One episode among those of a step."""

    episode: str
    task: str
    reward: float | None
    advantage: float | None
    success: bool | None
    largest: str | None
    """The part with the largest share of the advantage; of the reward where there is no advantage."""


def overview(folder: RunFolder, step: int | None = None) -> list[Overview]:
    """The training episodes of a step, the last by default. Raises UsageError where the run has none."""
    step, lines = _lines(folder, step)
    return [
        _overview(f"{step}:{place}", episode) for place, (episode, _) in enumerate(lines, start=1)
    ]


def explain(folder: RunFolder, name: str) -> Explanation:
    """One training episode, such as `12:3`, the third of step 12. Raises UsageError for one that cannot be explained."""
    if (match := NAME.fullmatch(name)) is None:
        raise UsageError(
            f"'{name}' must look like 12:3, the third episode of step 12. `envgym explain {folder.path}` lists some."
        )
    step, lines = _lines(folder, int(match[1]))
    if not 1 <= (place := int(match[2])) <= len(lines):
        raise UsageError(
            f"{folder.path}: no episode {name}: step {step} has {len(lines)}, from {step}:1 to {step}:{len(lines)}."
        )
    episode, left_out = lines[place - 1]
    rules = Rules.of(folder)
    known = _known(episode, folder, name, is_foreign=rules.is_foreign)
    schedule_step = max(0, step - rules.warmup_steps - 1)
    group = {
        f"{step}:{n}": each
        for n, (each, _) in enumerate(lines, start=1)
        if _are_siblings(each, episode)
    }
    return Explanation(
        str(folder.path),
        name,
        step,
        schedule_step,
        episode.task_id or episode.env_id,
        episode.level,
        next((message.content for message in episode.messages if message.role == "user"), ""),
        episode.last_said,
        episode.success,
        episode.stop_reason,
        episode.reward,
        episode.advantage,
        left_out,
        f"{episode.failure.kind} in {episode.failure.stage}: {episode.failure.message}"
        if episode.failure
        else "",
        tuple(
            _line(each, known, rules.parts.get(each), episode, group, schedule_step)
            for each in _names(episode, known)
        ),
        rules.notes,
    )


def _lines(folder: RunFolder, step: int | None) -> tuple[int, list[tuple[Episode, str]]]:
    steps, lines = folder.training_episodes(step)
    if not steps:
        raise UsageError(
            f"{folder.path}: no training episode was written yet. They come with the first GRPO step."
        )
    if not lines:
        raise UsageError(
            f"{folder.path}: no training step {step}: it has episodes of steps {min(steps)} to {max(steps)}."
        )
    return steps[-1] if step is None else step, lines


def _known(
    episode: Episode, folder: RunFolder, name: str, *, is_foreign: bool
) -> Mapping[str, Term]:
    """The terms of an episode. Raises UsageError where the record should have some and has none."""
    if episode.reward_terms or episode.void:
        return episode.reward_terms
    if is_foreign:
        return {"reward": Term(episode.reward, episode.reward, 1.0, by_turn=episode.turn_rewards)}
    raise UsageError(
        f"{folder.path}: episode {name} has no 'reward_terms': an earlier version of envgym wrote it, which kept what each "
        f"part said ({', '.join(episode.reward_parts) or 'none'}) and not what it counted for. Steps that are trained with this "
        "version have them: train anew, or go on with `envgym train ENV --resume RUN`."
    )


def _names(episode: Episode, known: Mapping[str, Term]) -> list[str]:
    return [*known, *(name for name in episode.advantage_parts if name not in known)]


def _are_siblings(one: Episode, other: Episode) -> bool:
    return not one.void and (one.task_id, one.start_hash) == (other.task_id, other.start_hash)


def _line(
    name: str,
    terms: Mapping[str, Term],
    rule: Rule | None,
    episode: Episode,
    group: Mapping[str, Episode],
    step: int,
) -> Line:
    term = terms.get(name)
    spec = rule.spec if rule else None
    weight = spec.weight if spec else None
    return Line(
        name=name,
        rule=rule.about if rule else OTHERS.get(name, ""),
        source=spec.source if spec else None,
        is_grounded=rule.is_grounded if rule else None,
        raw=term.raw if term else None,
        value=term.value if term else None,
        range=(at_step(spec.range[0], step), at_step(spec.range[1], step)) if spec else None,
        clip=spec.clip if spec else None,
        scale=spec.scale if spec else None,
        weight=term.weight if term else None,
        weight_of_config=None if weight is None else at_step(weight, step),
        schedule=dict(weight) if isinstance(weight, Mapping) else None,
        gate=_gate(spec, term) if term else None,
        contribution=term.contribution if term else None,
        advantage=None if episode.advantage is None else episode.advantage_parts.get(name, 0.0),
        by_turn=term.by_turn if term else (),
        siblings=_votes(name, group) if rule and rule.is_of_group else (),
    )


def _gate(spec: PartSpec | None, term: Term) -> dict[str, Any] | None:
    told = spec.gate.model_dump() if spec and spec.gate else {"on": None, "at_least": None}
    return told | {"is_open": term.is_open} if told["on"] or not term.is_open else None


def _votes(name: str, group: Mapping[str, Episode]) -> tuple[dict[str, Any], ...]:
    terms = {each: episode.reward_terms.get(name) for each, episode in group.items()}
    return tuple(
        {
            "episode": each,
            "said": group[each].last_said,
            "raw": term and term.raw,
            "value": term and term.value,
        }
        for each, term in terms.items()
    )


def _overview(name: str, episode: Episode) -> Overview:
    shares = episode.advantage_parts or {
        each: term.contribution for each, term in episode.reward_terms.items()
    }
    largest = max(shares, key=lambda each: abs(shares[each]), default=None)
    moved = largest if largest is not None and shares[largest] else None
    return Overview(
        name,
        episode.task_id or episode.env_id,
        episode.reward,
        episode.advantage,
        episode.success,
        moved,
    )


def plain(explained: Explanation | Sequence[Overview]) -> Any:
    """The same for JSON, every number exact."""
    if isinstance(explained, Explanation):
        return dataclasses.asdict(explained)
    return [dataclasses.asdict(each) for each in explained]
