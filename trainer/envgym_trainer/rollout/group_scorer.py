"""Recompute rewards during training: group reward parts, running scales and adaptive weights.

Every reward is composed again from its terms by `envgym.terms`, so the terms always add up to
the reward. See `advantages.py` for advantages.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from envgym.episode import Episode
from envgym.errors import SpecError, UsageError
from envgym.rewards.rubric import RewardPart
from envgym.terms import PENALTY, Term, compose, total, turn_rewards
from envgym.world import World
from envgym_trainer.config.reward_weights import RewardWeightsConfig
from envgym_trainer.rollout.plans.self_training import SelfTraining
from envgym_trainer.rollout.reward_weights import RewardWeights, read_likes

log = logging.getLogger(__name__)

JUDGES = ("judge", "judge_group")
"""Reward parts that send requests to an LLM judge, counted by `Rubric.judges`."""
Group = list[Episode]
Find = Callable[[Iterable[str]], dict[str, Episode]]
"""Lookup of the run's episodes by id, such as `12:3` (step 12, episode 3)."""


class GroupScorer:
    """Rewards of the groups of each training step. The state is stored in checkpoints.

    Args:
        world: Provides the rubric. Without a rubric (a foreign environment) rewards are unchanged.
        config: Settings of the adaptive weights.
        find: Looks up the episodes that people rated.
        say: Receives one line of text for the terminal.
        labels: Masks reward parts of unlabelled tasks. Used by self-training only.
    """

    def __init__(
        self,
        world: World,
        config: RewardWeightsConfig,
        find: Find,
        say: Callable[[str], None],
        labels: SelfTraining | None = None,
    ):
        rubric = world.rubric
        parts = rubric.parts if rubric else {}
        weighted = [name for name, part in parts.items() if part.rule.weight != 0]
        grounded = [name for name in weighted if parts[name].is_grounded]
        self.rubric, self.weights = rubric, RewardWeights(config, weighted, grounded=grounded)
        self.of_group = {name: part for name, part in parts.items() if part.is_group_part}
        self.moments = {
            name: RunningMoments() for name, part in parts.items() if part.rule.scale == "running"
        }
        self._world, self._find, self._failed = world, find, dict.fromkeys(self.of_group, 0)
        self._say = say
        self._told = ""
        self._labels = labels
        self._asks_judges = (
            any(rule.source in JUDGES for rule in rubric.rules.values()) if rubric else False
        )

    @property
    def is_idle(self) -> bool:
        """Return whether all rewards are used as the environment returned them."""
        # Self-training needs no test here: its vote is a group part.
        return not (self.of_group or self.moments or self.weights.config.mode != "fixed")

    def score(self, groups: Sequence[Group], *, step: int) -> list[Group]:
        """Return the groups with the rewards of this training step.

        Raises:
            UsageError: If a reward part cannot run with the user's settings.
            SpecError: If a reward part is configured wrongly.
        """
        if self.is_idle or self.rubric is None:
            return list(groups)
        composed = [
            [
                self._composed(episode, said, step)
                for episode, said in zip(group, self._together(group), strict=True)
            ]
            for group in groups
        ]
        kept = [
            episode.reward_terms
            for group in composed
            for episode in group
            if PENALTY not in episode.reward_terms
        ]
        for name, moments in self.moments.items():
            moments.add(
                [
                    value
                    for terms in kept
                    if name in terms and (value := terms[name].value) is not None
                ]
            )
        return [[self._weighed(episode) for episode in group] for group in composed]

    def observe(self, groups: Sequence[Group]) -> None:
        """Update the weights of the next step from this step's groups and the feedback file.

        If the feedback file cannot be parsed, log one warning and keep the current weights. The
        file may be half written.
        """
        self.weights.observe(groups)
        if self.weights.config.feedback_file:
            try:
                self.weights.listen(self._likes(Path(self.weights.config.feedback_file)))
            except UsageError as error:
                if str(error) != self._told:
                    self._say(f"WARNING: {error}. The current reward weights are kept.")
                self._told = str(error)

    def drain_metrics(self) -> dict[str, float]:
        """Return weight factors, running deviations, failure counts and judge counts.

        Failures of group parts are counted since the last call, judge requests since the start.
        """
        numbers = self.weights.metrics() | {
            f"rewards/{name}/running_std": each.deviation for name, each in self.moments.items()
        }
        failed = self._failed
        self._failed = dict.fromkeys(self._failed, 0)
        numbers |= {f"rewards/{name}/failed": float(count) for name, count in failed.items()}
        return numbers | (
            {name: float(count) for name, count in self.rubric.judges.statistics().items()}
            if self.rubric and self._asks_judges
            else {}
        )

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

    def _likes(self, file: Path) -> list[tuple[dict[str, float], bool]]:
        likes = read_likes(file)
        found = self._find(likes)
        if unknown := [name for name in likes if name not in found]:
            raise UsageError(f"{file}: the run has no episode {unknown[0]}. Remove its line")
        values = lambda episode: {
            name: t.value for name, t in episode.reward_terms.items() if t.value is not None
        }
        return [(values(found[name]), liked) for name, liked in likes.items()]

    def _together(self, group: Group) -> list[dict[str, float | None]]:
        """Return the group parts' values for each member, with None for a masked part.

        A void member gets an empty mapping.
        """
        members = [n for n, episode in enumerate(group) if not episode.is_void]
        said: list[dict[str, float | None]] = [{} for _ in group]
        hidden = self._labels.hidden(group) if self._labels else frozenset()
        for name, part in self.of_group.items() if members else ():
            values = (
                [None] * len(members)
                if name in hidden
                else self._ask(name, part, [group[n] for n in members])
            )
            for n, value in zip(members, values, strict=True):
                said[n][name] = value
        return [
            told | dict.fromkeys(hidden) if n in members else told for n, told in enumerate(said)
        ]

    def _ask(self, name: str, part: RewardPart, members: Group) -> Sequence[float | None]:
        """Call one group part. If it fails, mask it for this group, count and log the failure."""
        try:
            voters = (
                self._labels.voters(members[0].task_id)
                if self._labels and name == self._labels.part
                else None
            )
            more = {} if voters is None else {"voters": voters}
            values = list(
                part.function(self._world.tasks.task(members[0].task_id), members, **more)
            )
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

    def _composed(self, episode: Episode, said: dict[str, float | None], step: int) -> Episode:
        """Return the episode with its group values added and its masked parts removed.

        An episode with a penalty term is unchanged.
        """
        if (
            not said
            or self.rubric is None
            or PENALTY in episode.reward_terms
            or not episode.reward_terms
        ):
            return episode
        whole = {name: part.rule for name, part in self.rubric.named("episode").items()}
        raw = {name: term.raw for name, term in episode.reward_terms.items()} | said
        terms = episode.reward_terms | compose(whole, raw, step=step)
        # A masked part that is paid by turn is not in `whole`, so `compose` does not clear it.
        silent = [name for name, value in said.items() if value is None and name not in whole]
        terms |= {name: Term(None, None, terms[name].weight) for name in silent}
        return dataclasses.replace(
            episode, reward_parts=episode.reward_parts | said, reward_terms=terms
        )

    def _weighed(self, episode: Episode) -> Episode:
        """Return the episode with scaled and weighted terms and the reward composed from them."""
        if episode.is_void or not episode.reward_terms:
            return episode
        terms = {
            name: self._weighed_term(name, term) for name, term in episode.reward_terms.items()
        }
        turns = len(episode.turn_rewards)
        return dataclasses.replace(
            episode,
            reward_terms=terms,
            reward=total(terms),
            turn_rewards=turn_rewards(terms, turns),
        )

    def _weighed_term(self, name: str, term: Term) -> Term:
        scale = self.moments[name].deviation if name in self.moments else 1.0
        if term.value is None or name == PENALTY:
            return term
        by_turn = tuple(value / scale for value in term.by_turn)
        return dataclasses.replace(
            term,
            value=term.value / scale,
            by_turn=by_turn,
            weight=term.weight * self.weights.factor(name),
        )


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
