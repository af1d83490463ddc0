"""Contract of every advantage in the folder; a new file is tested without a change here."""

import dataclasses
import inspect
from pathlib import Path

import pytest
import torch

from envgym_trainer.algorithms import advantages
from envgym_trainer.algorithms.advantages import Advantage
from envgym_trainer.algorithms.attribution import REST, explained
from envgym_trainer.algorithms.credit import samples_by_group
from envgym_trainer.algorithms.registry import find_advantage
from envgym_trainer.config.algorithm import AdvantageConfig, AlgorithmConfig
from envgym_trainer.config.options import options_model, shipped_names
from tests.fakes.advantage_inputs import inputs_of
from tests.trainer.algorithms.test_attribution import random_groups

NAMES = shipped_names("advantage")
VALID = torch.tensor([[True, True, False, True], [True, True, True, True], [True] + [False] * 3])


def values_of(name, inputs):
    return find_advantage(name)(inputs, **AdvantageConfig(name=name).options)


def random_inputs():
    rewards = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    return inputs_of(rewards, valid=VALID, turns=3)


def test_each_file_is_an_advantage():
    files = {file.stem for file in Path(advantages.__file__).parent.glob("*.py")}
    assert files - {"__init__"} == set(NAMES) >= {"group", "rloo", "gdpo", "turns", "gigpo"}


@pytest.mark.parametrize("name", NAMES)
def test_the_file_holds_an_advantage_of_its_name(name):
    advantage = find_advantage(name)
    assert isinstance(advantage, Advantage)
    assert advantage.name == name


@pytest.mark.parametrize("name", NAMES)
def test_the_options_that_are_read_are_those_of_the_function(name):
    model = options_model("advantage", name)
    parameters = inspect.signature(find_advantage(name).function).parameters
    options = {n: p.default for n, p in parameters.items() if p.kind is p.KEYWORD_ONLY}
    assert {n: field.default for n, field in model.model_fields.items()} == options
    assert all(field.description for field in model.model_fields.values())
    assert AdvantageConfig(name=name).options == options


@pytest.mark.parametrize("name", NAMES)
def test_shapes_and_no_nan(name):
    inputs = random_inputs()
    values = values_of(name, inputs)
    assert values.shape in (inputs.rewards.shape, inputs.turn_rewards.shape)
    assert values.dtype == inputs.rewards.dtype
    assert values.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_valid_gets_zero_and_is_not_read(name):
    values = values_of(name, random_inputs())
    at = VALID if values.ndim == 2 else VALID[..., None].expand(values.shape)
    assert values[~at].abs().max() == 0
    assert values[at].abs().max() > 0
    inputs = random_inputs()
    dirty = dataclasses.replace(
        inputs,
        rewards=inputs.rewards.masked_fill(~VALID, 99.0),
        turn_rewards=inputs.turn_rewards.masked_fill(~inputs.turn_valid, 99.0),
        parts=inputs.parts.masked_fill(~inputs.part_valid, 99.0),
    )
    assert torch.equal(values_of(name, dirty), values)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("reward", [0.0, 0.1, -7.0])
def test_equal_rewards_give_zeros(name, reward):
    inputs = inputs_of(torch.full((2, 5), reward))
    assert values_of(name, inputs).abs().max() == 0


@pytest.mark.parametrize("name", NAMES)
def test_groups_are_independent_if_and_only_if_the_baseline_is_the_group(name):
    rewards = torch.tensor([[1.0, 0.0, 0.5], [3.0, 3.0, 3.0]])
    values = values_of(name, inputs_of(rewards))
    # Only a batch-wide baseline gives a nonzero advantage to a group without variance.
    compared = values[1].abs().max() > 0
    assert compared == (find_advantage(name).baseline == "batch")


@pytest.mark.parametrize("name", NAMES)
def test_a_linear_advantage_is_attributed_without_a_rest(name):
    algorithm = AlgorithmConfig(advantage=AdvantageConfig(name=name))
    told = [each for seed in range(3) for each in explained(random_groups(seed), algorithm)]
    rests = [REST in episode.advantage_parts for group in told for episode in group]
    assert any(rests) != find_advantage(name).is_linear


@pytest.mark.parametrize("name", NAMES)
def test_every_sampled_token_gets_the_advantage_of_its_episode_or_turn(name):
    algorithm = AlgorithmConfig(advantage=AdvantageConfig(name=name))
    groups = random_groups(0)
    samples = samples_by_group(groups, algorithm)
    assert [len(group) for group in samples] == [
        sum(not episode.is_void for episode in group) for group in groups
    ]
    for sample in (sample for group in samples for sample in group):
        if sample.token_advantages is not None:
            assert len(sample.token_advantages) == len(sample.token_ids)
            pairs = zip(sample.token_advantages, sample.loss_mask, strict=True)
            assert all(value == 0 for value, sampled in pairs if not sampled)
