"""Attribution: the shares of the reward terms add up to the advantage, for every advantage."""

import dataclasses
import math
import random

import pytest

from envgym.terms import PENALTY, Term, total, turn_rewards
from envgym_trainer.algorithms.attribution import (
    MISTAKES,
    OVERLONG,
    REST,
    explained,
    part_metrics,
)
from envgym_trainer.algorithms.credit import samples_by_group
from envgym_trainer.algorithms.episode_tables import REWARD
from envgym_trainer.config import TrainConfig
from envgym_trainer.config.algorithm import AdvantageConfig, AlgorithmConfig
from envgym_trainer.config.presets import preset_names
from tests.trainer.config.test_algorithms import VOID, episode


def of_terms(turns=1, *, mistakes=(), **terms):
    """Build an episode with these reward terms. A plain number is a value of weight 1."""
    terms = {
        name: term if isinstance(term, Term) else Term(term, term, 1.0)
        for name, term in terms.items()
    }
    made = episode([0.0] * turns, mistakes=mistakes)
    return dataclasses.replace(
        made, reward=total(terms), reward_terms=terms, turn_rewards=turn_rewards(terms, turns)
    )


def random_groups(seed, *, size=5):
    rng = random.Random(seed)
    groups = []
    for _ in range(3):
        group = []
        for _ in range(size):
            turns = rng.randint(1, 4)
            value = rng.choice([0.0, 1.0])
            by_turn = tuple(rng.choice([0.0, 0.5, -0.5]) for _ in range(turns))
            terms = {
                "solved": Term(value, value, 2.0),
                "form": rng.choice([Term(None, None, 0.5), Term(1.0, rng.uniform(-1, 1), 0.5)]),
                "turnwise": Term(sum(by_turn), math.fsum(by_turn), 0.3, by_turn=by_turn),
                "watched": Term(9.0, 9.0, 0.0),
            }
            if rng.random() < 0.2:
                terms[PENALTY] = Term(1.0, min(0.0, -total(terms)), 1.0)
            group.append(
                of_terms(turns, mistakes=tuple(rng.choice([0, 1]) for _ in range(turns)), **terms)
            )
        groups.append(group)
    groups[1][2] = VOID
    groups[2] = [of_terms(2, solved=1.0) for _ in range(size)]  # all members have the same reward
    return groups


def learned_from(groups, algorithm):
    """Return the mean token advantage of each valid episode, shape (P, G)."""
    rows = []
    for group in samples_by_group(groups, algorithm):
        mean = lambda s: (
            math.fsum(s.token_advantages) / sum(s.loss_mask) if s.token_advantages else s.advantage
        )
        rows.append([mean(sample) for sample in group])
    return rows


@pytest.mark.parametrize("preset", preset_names())
@pytest.mark.parametrize("seed", range(3))
def test_parts_sum_to_the_very_advantage_that_is_learned_from(preset, seed):
    algorithm = TrainConfig.model_validate({"algorithm": preset}).algorithm
    groups = random_groups(seed)
    told = [[each for each in group if not each.is_void] for group in explained(groups, algorithm)]
    assert [[each.advantage for each in group] for group in told] == [
        pytest.approx(row, abs=1e-4) for row in learned_from(groups, algorithm)
    ]
    for each in (each for group in told for each in group):
        assert sum(each.advantage_parts.values()) == pytest.approx(each.advantage, abs=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"advantage": {"std": "none"}},
        {"advantage": {"std": "batch"}},
        {"advantage": {"name": "rloo"}},
        {"advantage": {"name": "reinforce_pp"}},
        {"advantage": {"name": "reinforce_pp_baseline"}},
        {"advantage": {"name": "turns"}},
        {"advantage": {"name": "turns", "discount": 0.9, "invalid_call_penalty": 0.1}},
        {"overlong_penalty": {"max_tokens": 6, "slope_tokens": 4}},
        {
            "advantage": {"name": "turns"},
            "overlong_penalty": {"max_tokens": 6, "slope_tokens": 4},
        },
    ],
)
def test_what_is_linear_is_explained_to_the_end(options):
    algorithm = TrainConfig.model_validate({"algorithm": options}).algorithm
    for seed in range(3):
        told = explained(random_groups(seed), algorithm)
        names = {name for group in told for each in group for name in each.advantage_parts}
        assert REST not in names
        assert {"solved", "form", "turnwise"} <= names
        assert ("watched" in names, OVERLONG in names) == (
            False,
            algorithm.overlong_penalty is not None,
        )
        assert (MISTAKES in names) == (
            algorithm.advantage.options.get("invalid_call_penalty", 0) > 0
        )


def test_shares_worked_out_by_hand():
    # Rewards 3, 1: mean 2, deviation 1. `solved` differs from its mean by +-1, `form` (weight 0.5,
    # values 0, 4) by -+1 ...
    group = [
        of_terms(solved=3.0, form=Term(0.0, 0.0, 0.5)),
        of_terms(solved=-1.0, form=Term(4.0, 4.0, 0.5)),
    ]
    first, second = explained([group], AlgorithmConfig(advantage=AdvantageConfig(eps=1e-9)))[0]
    assert first.advantage_parts == {"form": pytest.approx(-1.0), "solved": pytest.approx(2.0)}
    assert first.advantage == pytest.approx(1.0)
    assert second.advantage_parts == {"form": pytest.approx(1.0), "solved": pytest.approx(-2.0)}
    assert part_metrics([[first, second]]) == {
        "advantage/form": pytest.approx(1 / 3),
        "advantage/solved": pytest.approx(2 / 3),
    }


def test_a_group_that_agrees_is_moved_by_nothing_even_where_its_parts_do_not():
    group = [of_terms(left=1.0, right=0.0), of_terms(left=0.0, right=1.0)]
    for each in explained([group], AlgorithmConfig())[0]:
        assert (each.advantage, each.advantage_parts) == (0.0, {"left": 0.0, "right": 0.0})
    assert part_metrics(explained([group], AlgorithmConfig())) == {}


def test_a_foreign_reward_is_one_term():
    group = [episode([1.0]), episode([0.0])]
    first, _ = explained([group], AlgorithmConfig())[0]
    assert first.advantage_parts == {REWARD: pytest.approx(first.advantage)}


def test_void_episodes_are_left_as_they_are_and_nothing_is_explained_of_nothing():
    group = explained([[of_terms(solved=1.0), VOID, of_terms(solved=0.0)]], AlgorithmConfig())[0]
    assert group[1] is VOID
    assert group[0].advantage > 0
    assert explained([], AlgorithmConfig()) == []
    assert explained([[VOID, VOID]], AlgorithmConfig()) == [[VOID, VOID]]
