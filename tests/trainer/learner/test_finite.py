"""An update is finite, or it is skipped and counted. The learning rate counts updates only.

Traps 24 and 26 of multi-turn RL: a schedule that counts forward passes, and non-finite numbers that
reach the weights.
"""

import dataclasses
import math
import random
from collections import Counter

import pytest
import torch

from envgym.episode import Episode
from envgym.policies import TokenTrace
from envgym_trainer.algorithms.credit import build_samples
from envgym_trainer.batch import Sample
from envgym_trainer.config.algorithm import AdvantageConfig, AlgorithmConfig
from envgym_trainer.learner.learner import Learner
from envgym_trainer.learner.update_settings import UpdateSettings
from tests.fakes.tiny_lora import random_samples, tiny_model
from tests.trainer.learner.test_learner import adapter, largest_difference


def episode(reward, tokens=2, sampled=1):
    """Build an episode whose last `sampled` tokens come from the policy."""
    mask = (False,) * (tokens - sampled) + (True,) * sampled
    return Episode(
        "e", "t", "train", "", "", 0, (), TokenTrace((1,) * tokens, mask, (-0.5,) * tokens), reward
    )


def with_old(value, sample):
    return dataclasses.replace(
        sample, old_logprobs=tuple(value if m else 0.0 for m in sample.loss_mask)
    )


EMPTY_ACTION_ROW = Sample((3, 4, 5), (False, False, False), (0.0, 0.0, 0.0), 1.0)
NO_TOKENS = Sample((), (), (), 1.0)
ONE_TOKEN_ROW = Sample((3,), (False,), (0.0,), 1.0)
ONE_ACTION = Sample((3, 4), (False, True), (0.0, -1.0), 1.0)
ODD = [EMPTY_ACTION_ROW, NO_TOKENS, ONE_TOKEN_ROW, ONE_ACTION]
ODD_NUMBERS = [0.0, 1e-30, 1e4, -1e18, 1e30, 3e38, 1e300, math.inf, -math.inf, math.nan]
ODD_LOGPROBS = [0.0, -1e-8, -90.0, -1e4, -1e38, -math.inf, math.nan, 5.0]


def odd_step(rng):
    """Build normal samples mixed with odd rows and non-finite numbers."""
    samples = random_samples(rng.randrange(100), groups=1, group_size=3)
    for index in range(len(samples)):
        kind = rng.choice(["as it is", "advantage", "old logprobs"])
        if kind == "advantage":
            samples[index] = dataclasses.replace(samples[index], advantage=rng.choice(ODD_NUMBERS))
        elif kind == "old logprobs":
            samples[index] = with_old(rng.choice(ODD_LOGPROBS), samples[index])
    return [*samples, *rng.sample(ODD, rng.randrange(3))]


@pytest.mark.parametrize("layout", ["tree", "flat"])
@pytest.mark.parametrize("kl_coef", [0.0, 0.1])
def test_a_hundred_odd_steps_each_update_finitely_or_are_skipped_and_counted(layout, kl_coef):
    rng = random.Random(layout)
    outcomes = Counter()
    learner = Learner(tiny_model(dtype=torch.float32), layout=layout)
    for _ in range(25):
        before = adapter(learner.model)
        counts = (learner.updates, learner.skipped_updates)
        metrics = learner.update(odd_step(rng), UpdateSettings(kl_coef=kl_coef, learning_rate=1e-3))
        updated = learner.updates - counts[0]
        skipped = learner.skipped_updates - counts[1]
        outcomes[updated, skipped] += 1
        assert all(value.isfinite().all() for value in learner.parameters.values())
        assert metrics["optimizer/skipped_updates"] == learner.skipped_updates
        if not updated:
            assert largest_difference(before, adapter(learner.model)) == 0
    assert set(outcomes) <= {(1, 0), (0, 1), (0, 0)}
    assert min(outcomes[1, 0], outcomes[0, 1]) >= 3  # the random cases include both kinds


@pytest.mark.parametrize(
    "rows",
    [
        [EMPTY_ACTION_ROW],
        [NO_TOKENS],
        [ONE_TOKEN_ROW],
        [EMPTY_ACTION_ROW, NO_TOKENS, ONE_TOKEN_ROW],
    ],
)
def test_rows_without_an_action_alone_are_no_step_and_no_skip(rows):
    learner = Learner(tiny_model(dtype=torch.float32))
    assert learner.update(rows, UpdateSettings())["grad_norm"] == 0.0
    assert (learner.updates, learner.skipped_updates) == (0, 0)


@pytest.mark.parametrize("layout", ["tree", "flat"])
def test_rows_without_an_action_change_nothing_beside_others(layout):
    plain, mixed = (Learner(tiny_model(dtype=torch.float32), layout=layout) for _ in range(2))
    plain.update(random_samples(1), UpdateSettings())
    mixed.update([EMPTY_ACTION_ROW, *random_samples(1), NO_TOKENS, ONE_TOKEN_ROW], UpdateSettings())
    assert largest_difference(adapter(plain.model), adapter(mixed.model)) == 0


def test_a_single_sampled_token_is_an_update():
    learner = Learner(tiny_model(dtype=torch.float32))
    assert learner.update([ONE_ACTION], UpdateSettings())["batch/action_tokens"] == 1.0
    assert learner.updates == 1


@pytest.mark.parametrize("reward", [0.0, 1.0, 0.1, 1e30, -1e30])
@pytest.mark.parametrize("std", ["group", "batch", "none"])
def test_equal_rewards_are_no_step_however_large(reward, std):
    learner = Learner(tiny_model(dtype=torch.float32))
    samples = build_samples(
        [[episode(reward)] * 3], AlgorithmConfig(advantage=AdvantageConfig(std=std))
    )
    assert [sample.advantage for sample in samples] == [0.0] * 3
    learner.update(samples, UpdateSettings())
    assert (learner.updates, learner.skipped_updates) == (0, 0)


@pytest.mark.parametrize("huge", [1e4, 1e12, 1e30, 3e38])
@pytest.mark.parametrize("std", ["group", "batch", "none"])
def test_huge_rewards_leave_finite_weights(huge, std):
    learner = Learner(tiny_model(dtype=torch.float32))
    samples = build_samples(
        [[episode(huge), episode(-huge, tokens=4, sampled=2), episode(0.0)]],
        AlgorithmConfig(advantage=AdvantageConfig(std=std)),
    )
    learner.update(samples, UpdateSettings())
    assert learner.updates + learner.skipped_updates <= 1
    assert all(value.isfinite().all() for value in learner.parameters.values())


def rates_at_the_optimizer(learner, steps):
    """Record the optimizer's learning rate at each of its steps."""
    seen = []
    step = learner.optimizer.step
    learner.optimizer.step = lambda: (seen.append(learner.optimizer.param_groups[0]["lr"]), step())
    for samples in steps:
        learner.update(samples, UpdateSettings(learning_rate=1e-3))
    return seen


@pytest.mark.parametrize(
    ("layout", "budget"), [("flat", 1), ("flat", 10_000), ("tree", 1), ("tree", 15)]
)
def test_the_rate_after_n_updates_is_its_closed_form_for_any_micro_batch_split(layout, budget):
    learner = Learner(
        tiny_model(dtype=torch.float32),
        warmup_steps=4,
        layout=layout,
        max_tokens_per_micro_batch=budget,
    )
    good = random_samples(3, groups=2, group_size=2)
    assert budget == 10_000 or len(list(learner.micro_batches(good))) > 1
    idle = [dataclasses.replace(sample, advantage=0.0) for sample in good]
    broken = [dataclasses.replace(good[0], advantage=math.inf), *good[1:]]
    seen = rates_at_the_optimizer(learner, [good, idle, good, broken, good, good, good, good])
    # neither idle nor skipped steps count
    assert seen == pytest.approx([1e-3 * min(1.0, n / 4) for n in range(1, 7)])
