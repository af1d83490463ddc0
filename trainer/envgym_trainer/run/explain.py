"""Explain the reward and the advantage of an episode, part by part (`envgym explain`).

Numbers come from the run's record, and settings from its `config.yaml`; see `rules.py` for the
descriptions of reward parts. Rewards are not computed again, and no code of the run is loaded. See
`algorithms/attribution.py` for the attribution of advantages. Imports no torch.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from envgym.episode import Episode
from envgym.errors import UsageError
from envgym.spec.reward import PartSpec, at_step
from envgym.terms import PENALTY, Term
from envgym_trainer.run.folder import RunFolder
from envgym_trainer.run.rules import Rule, Rules

NAME = re.compile(r"(\d+):(\d+)")
OTHERS = {
    PENALTY: "Penalty of an episode that was aborted or changed a forbidden table.",
    "reward": "Whole reward of a foreign environment, which does not report parts.",
    "rest": "Remainder of the advantage that is not linear in the terms.",
    "overlong": "Algorithm's penalty on answers near the token limit; not part of the reward.",
    "mistakes": "Algorithm's penalty on invalid tool calls; not part of the reward.",
}
"""Descriptions of terms that are no reward part of the environment, by name."""


@dataclass(frozen=True, slots=True)
class Line:
    """One term of one episode. A field is `None` if its value is unknown or does not apply."""

    name: str
    rule: str
    source: str | None
    """Value of `from` in the settings."""
    is_grounded: bool | None
    raw: float | None
    value: float | None
    range: tuple[float, float] | None
    """Range in force at the episode's step; `None` if the rule is unknown."""
    clip: tuple[float, float] | None
    scale: str | None
    weight: float | None
    weight_of_config: float | None
    """Weight of the settings at this step. `train.reward_weights` may have changed `weight`."""
    schedule: dict[int, float] | None
    """Weights by training step; `None` if the weight is a single number."""
    gate: dict[str, Any] | None
    """Gate with `on`, `at_least` and `is_open`. The first two are `None` if the rule is unknown."""
    contribution: float | None
    """Contribution to the reward; `None` for a term that changes only the advantage."""
    advantage: float | None
    """Share of the advantage; `None` if the episode was excluded from training."""
    by_turn: tuple[float, ...] = ()
    siblings: tuple[dict[str, Any], ...] = ()
    """Values of a group part for all group members: `episode`, `said`, `raw`, `value`."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """Explanation of one episode.

    Contributions of `parts` add up to `reward`, their shares to `advantage`.
    """

    run: str
    episode: str
    step: int
    schedule_step: int
    """Index into the schedules: GRPO steps before this one, without the warm start."""
    task: str
    level: str
    asked: str
    said: str
    success: bool | None
    stop_reason: str
    reward: float | None
    advantage: float | None
    excluded: str
    """Reason for the exclusion from training, if recorded."""
    failure: str
    """Error of the environment if the episode is void."""
    parts: tuple[Line, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Overview:
    """Summary of one episode of a step."""

    episode: str
    task: str
    reward: float | None
    advantage: float | None
    success: bool | None
    largest: str | None
    """Term with the largest share of the advantage, or of the reward if there is no advantage."""


def overview(folder: RunFolder, step: int | None = None) -> list[Overview]:
    """Return summaries of the training episodes of a step.

    Args:
        folder: Folder of the run.
        step: Training step; the last one by default.

    Raises:
        UsageError: If no training episode was recorded for the step.
    """
    step, lines = _lines(folder, step)
    return [
        _overview(f"{step}:{place}", episode) for place, (episode, _) in enumerate(lines, start=1)
    ]


def explain(folder: RunFolder, name: str, *, env: str | None = None) -> Explanation:
    """Return the explanation of one training episode.

    Args:
        folder: Folder of the run.
        name: Step and position, such as `12:3` for the third episode of step 12.
        env: Environment whose files describe the parts: path of its YAML file, name or id. Default:
            the bundled environment with the run's id. The run itself may come from somebody else,
            so no file that it names is read.

    Raises:
        UsageError: If the name is malformed, the episode does not exist, or its record has no
            reward terms.
    """
    if (match := NAME.fullmatch(name)) is None:
        raise UsageError(
            f"'{name}' is no episode name. Write STEP:POSITION, such as 12:3 for the third episode "
            f"of step 12. To list episodes: envgym explain {folder.path}"
        )
    step, lines = _lines(folder, int(match[1]))
    if not 1 <= (place := int(match[2])) <= len(lines):
        raise UsageError(
            f"{folder.path}: no episode {name}. Step {step} has {len(lines)} episodes, "
            f"{step}:1 to {step}:{len(lines)}."
        )
    episode, excluded = lines[place - 1]
    rules = Rules.of(folder, step=step, env=env)
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
        episode.last_assistant_message,
        episode.success,
        episode.stop_reason,
        episode.reward,
        episode.advantage,
        excluded,
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
            f"{folder.path}: no training episode is recorded yet. The first GRPO step records some."
        )
    if not lines:
        raise UsageError(
            f"{folder.path}: no episodes of step {step}. Episodes are recorded for steps "
            f"{min(steps)} to {max(steps)}."
        )
    return steps[-1] if step is None else step, lines


def _known(
    episode: Episode, folder: RunFolder, name: str, *, is_foreign: bool
) -> Mapping[str, Term]:
    """Return the reward terms of an episode. Raises UsageError if the record lacks them."""
    if episode.reward_terms or episode.is_void:
        return episode.reward_terms
    if is_foreign:
        return {"reward": Term(episode.reward, episode.reward, 1.0, by_turn=episode.turn_rewards)}
    raise UsageError(
        f"{folder.path}: episode {name} has no 'reward_terms', because an earlier version of "
        "envgym recorded it. That version kept the value of each part "
        f"({', '.join(episode.reward_parts) or 'none'}) but not its weight. Train again, or "
        "continue with `envgym train ENV --resume RUN`: new steps record the terms."
    )


def _names(episode: Episode, known: Mapping[str, Term]) -> list[str]:
    return [*known, *(name for name in episode.advantage_parts if name not in known)]


def _are_siblings(one: Episode, other: Episode) -> bool:
    return not one.is_void and (one.task_id, one.start_hash) == (other.task_id, other.start_hash)


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
    return told | {"is_open": term.gate_is_open} if told["on"] or not term.gate_is_open else None


def _votes(name: str, group: Mapping[str, Episode]) -> tuple[dict[str, Any], ...]:
    terms = {each: episode.reward_terms.get(name) for each, episode in group.items()}
    return tuple(
        {
            "episode": each,
            "said": group[each].last_assistant_message,
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
    """Return the same data as dicts and lists for JSON, with exact numbers."""
    if isinstance(explained, Explanation):
        return dataclasses.asdict(explained)
    return [dataclasses.asdict(each) for each in explained]
