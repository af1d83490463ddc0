"""Recompute rewards during training: group reward parts, running scales and adaptive weights.

Every reward is composed again from its terms by `envgym.terms`, so the terms always add up to
the reward. See `algorithms/advantages` for advantages.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from envgym.episode import Episode
from envgym.errors import SpecError, UsageError
from envgym.rewards.rubric import RewardPart
from envgym.secrets import get_logger
from envgym.terms import PENALTY, Term, compose, total, turn_rewards
from envgym.world import World
from envgym_trainer.config.reward_weights import RewardWeightsConfig
from envgym_trainer.rollout.plans import TrainingPlan
from envgym_trainer.rollout.reward_weights import RewardWeights, read_feedback
from envgym_trainer.rollout.rollout_batch import Group, PartValues

log = get_logger(__name__)

JUDGES = ("judge", "judge_group")
"""Reward parts that send requests to an LLM judge, counted by `Rubric.judges`."""
Find = Callable[[Iterable[str]], dict[str, Episode]]
"""Lookup of the run's episodes by id, such as `12:3` (step 12, episode 3)."""


class GroupScorer:
    """Rewards of the groups of each training step. The state is stored in checkpoints.

    Args:
        world: Provides the rubric. Without a rubric (a foreign environment) rewards are unchanged.
        config: Settings of the adaptive weights.
        find: Looks up the episodes that people rated.
        notify: Receives one line of text for the terminal.
        plan: Masks reward parts and provides votes.
    """

    def __init__(
        self,
        world: World,
        config: RewardWeightsConfig,
        find: Find,
        notify: Callable[[str], None],
        plan: TrainingPlan,
    ):
        rubric = world.rubric
        parts = rubric.parts if rubric else {}
        weighted = [name for name, part in parts.items() if part.rule.weight != 0]
        grounded = [name for name in weighted if parts[name].is_grounded]
        self.rubric = rubric
        self.weights = RewardWeights(config, weighted, grounded=grounded)
        self.of_group = {name: part for name, part in parts.items() if part.is_group_part}
        self.moments = {
            name: RunningMoments() for name, part in parts.items() if part.rule.scale == "running"
        }
        self._world = world
        self._find = find
        self._failed = dict.fromkeys(self.of_group, 0)
        self._notify = notify
        self._warned = ""
        self._plan = plan
        self._asks_judges = (
            any(rule.source in JUDGES for rule in rubric.rules.values()) if rubric else False
        )

    @property
    def is_idle(self) -> bool:
        """Whether rewards are used as the environment returned them, if no part is masked."""
        return not (self.of_group or self.moments or self.weights.config.mode != "fixed")

    def score(
        self, groups: Sequence[Group], *, step: int, earlier: Sequence[PartValues] = ()
    ) -> ScoredGroups:
        """Return the groups with the rewards of a training step. The state does not change.

        A running scale includes the values of these groups. See `observe`.

        Args:
            groups: Groups as the environment rewarded them.
            step: Number of trained GRPO steps, for weights that follow a schedule.
            earlier: `part_values` of earlier scorings of the same step.

        Raises:
            UsageError: If a reward part cannot run with the user's settings.
            SpecError: If a reward part is configured wrongly.
        """
        masks = [self._plan.mask_parts(group) for group in groups]
        if self.rubric is None or (self.is_idle and not any(masks)):
            return ScoredGroups(list(groups), {})
        composed = [
            [
                self._composed(episode, values, step)
                for episode, values in zip(group, self._group_values(group, masked), strict=True)
            ]
            for group, masked in zip(groups, masks, strict=True)
        ]
        part_values = {name: _values_of(name, composed) for name in self.moments}
        moments = self._moments_with([*earlier, part_values])
        scales = {name: each.deviation for name, each in moments.items()}
        return ScoredGroups(
            [[self._weighed(episode, scales) for episode in group] for group in composed],
            part_values,
        )

    def observe(self, groups: Sequence[Group], part_values: Sequence[PartValues] = ()) -> None:
        """Update scales and weights from a step that is trained, and from the feedback file.

        If the feedback file cannot be parsed, log one warning and keep the current weights. The
        file may be half written.

        Args:
            groups: All groups of the step.
            part_values: `part_values` of each scoring of the step.
        """
        self.moments = self._moments_with(part_values)
        self.weights.observe(groups)
        if self.weights.config.feedback_file:
            try:
                self.weights.apply_feedback(self._feedback(Path(self.weights.config.feedback_file)))
            except UsageError as error:
                if str(error) != self._warned:
                    self._notify(f"WARNING: {error}. The current reward weights are kept.")
                self._warned = str(error)

    def drain_metrics(self, part_values: Sequence[PartValues] = ()) -> dict[str, float]:
        """Return weight factors, running deviations, failure counts and judge counts.

        Failures of group parts are counted since the last call, judge requests since the start.

        Args:
            part_values: `part_values` of each scoring of a step that is not yet observed.
        """
        numbers = self.weights.metrics() | {
            f"rewards/{name}/running_std": each.deviation
            for name, each in self._moments_with(part_values).items()
        }
        failed = self._failed
        self._failed = dict.fromkeys(self._failed, 0)
        numbers |= {f"rewards/{name}/failed": float(count) for name, count in failed.items()}
        if self.rubric and self._asks_judges:
            counts = self.rubric.judges.statistics()
            numbers |= {name: float(count) for name, count in counts.items()}
        return numbers

    def state_dict(self) -> dict[str, Any]:
        return {
            "weights": self.weights.state_dict(),
            "moments": {name: m.state_dict() for name, m in self.moments.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.weights.load_state_dict(state.get("weights", {}))
        for name, moments in state.get("moments", {}).items():
            if name in self.moments:
                self.moments[name] = RunningMoments(**moments)

    def _moments_with(self, part_values: Sequence[PartValues]) -> dict[str, RunningMoments]:
        """Return the running moments after these values."""
        moments = {name: dataclasses.replace(each) for name, each in self.moments.items()}
        for values in part_values:
            for name, each in moments.items():
                each.add(values.get(name, ()))
        return moments

    def _feedback(self, file: Path) -> list[tuple[dict[str, float], bool]]:
        likes = read_feedback(file)
        found = self._find(likes)
        if unknown := [name for name in likes if name not in found]:
            raise UsageError(f"{file}: the run has no episode {unknown[0]}. Remove its line")
        return [(_known_values(found[name]), liked) for name, liked in likes.items()]

    def _group_values(self, group: Group, masked: frozenset[str]) -> list[dict[str, float | None]]:
        """Return the group parts' values for each member, with None for a masked part.

        A void member gets an empty mapping.
        """
        members = [n for n, episode in enumerate(group) if not episode.is_void]
        found: list[dict[str, float | None]] = [{} for _ in group]
        if not members:
            return found
        for name, part in self.of_group.items():
            if name in masked:
                continue
            values = self._ask(name, part, [group[n] for n in members])
            for n, value in zip(members, values, strict=True):
                found[n][name] = value
        for n in members:
            found[n] |= dict.fromkeys(masked)
        return found

    def _ask(self, name: str, part: RewardPart, members: Group) -> Sequence[float | None]:
        """Call one group part. If it fails, mask it for this group, count and log the failure."""
        try:
            votes = self._plan.votes_for(name, members[0].task_id)
            more = {} if votes is None else {"voters": votes}
            task = self._world.tasks.task(members[0].task_id)
            values = list(part.function(task, members, **more))
            if len(values) != len(members) or not all(
                value is None or math.isfinite(value) for value in values
            ):
                raise ValueError(f"gave {values!r} for {len(members)} episodes")
            return values
        except (SpecError, UsageError):
            raise
        except Exception as error:
            self._failed[name] += 1
            log.warning(
                "part '%s' cannot judge a group of task '%s'; it is masked for this group: %s",
                name,
                members[0].task_id,
                error,
            )
            return [None] * len(members)

    def _composed(self, episode: Episode, values: dict[str, float | None], step: int) -> Episode:
        """Return the episode with its group values added and its masked parts removed.

        An episode with a penalty term is unchanged.
        """
        if (
            not values
            or self.rubric is None
            or PENALTY in episode.reward_terms
            or not episode.reward_terms
        ):
            return episode
        whole = {name: part.rule for name, part in self.rubric.named("episode").items()}
        raw = {name: term.raw for name, term in episode.reward_terms.items()} | values
        terms = episode.reward_terms | compose(whole, raw, step=step)
        # A masked part that is paid by turn is not in `whole`, so `compose` does not clear it.
        silent = [name for name, value in values.items() if value is None and name not in whole]
        terms |= {name: Term(None, None, terms[name].weight) for name in silent}
        return dataclasses.replace(
            episode, reward_parts=episode.reward_parts | values, reward_terms=terms
        )

    def _weighed(self, episode: Episode, scales: Mapping[str, float]) -> Episode:
        """Return the episode with scaled and weighted terms and the reward composed from them."""
        if episode.is_void or not episode.reward_terms:
            return episode
        terms = {
            name: self._weighed_term(name, term, scales.get(name, 1.0))
            for name, term in episode.reward_terms.items()
        }
        turns = len(episode.turn_rewards)
        return dataclasses.replace(
            episode,
            reward_terms=terms,
            reward=total(terms),
            turn_rewards=turn_rewards(terms, turns),
        )

    def _weighed_term(self, name: str, term: Term, scale: float) -> Term:
        if term.value is None or name == PENALTY:
            return term
        return dataclasses.replace(
            term,
            value=term.value / scale,
            by_turn=tuple(value / scale for value in term.by_turn),
            weight=term.weight * self.weights.factor(name),
        )


@dataclasses.dataclass(frozen=True, slots=True)
class ScoredGroups:
    """Groups with the rewards of a training step."""

    groups: list[Group]
    part_values: PartValues
    """Unscaled values of the parts with a running scale. Pass them to `observe`."""


@dataclasses.dataclass
class RunningMoments:
    """Count, mean and sum of squared deviations of all earlier values.

    Source: Chan, Golub and LeVeque, Updating formulae and a pairwise algorithm for computing sample
    variances, 1979.
    """

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    @property
    def deviation(self) -> float:
        """Return the population standard deviation, or 1 if the values do not differ yet."""
        deviation = math.sqrt(self.squares / self.count) if self.count else 0.0
        return deviation if deviation > 1e-8 else 1.0

    def add(self, values: Sequence[float]) -> None:
        if not values:
            return
        mean = math.fsum(values) / len(values)
        squares = math.fsum((value - mean) ** 2 for value in values)
        total = self.count + len(values)
        self.squares += squares + (mean - self.mean) ** 2 * self.count * len(values) / total
        self.mean += (mean - self.mean) * len(values) / total
        self.count = total

    def state_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def _values_of(name: str, groups: Sequence[Group]) -> list[float]:
    """Return a part's values in all episodes without a penalty, in order."""
    terms = [episode.reward_terms for group in groups for episode in group]
    return [
        value
        for each in terms
        if PENALTY not in each and name in each and (value := each[name].value) is not None
    ]


def _known_values(episode: Episode) -> dict[str, float]:
    return {
        name: term.value for name, term in episode.reward_terms.items() if term.value is not None
    }
