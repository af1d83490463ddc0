"""Advantages of whole batches: RLOO, REINFORCE++, GDPO, overlong penalty, turns, step groups.

The expected numbers are worked out by hand.
"""

import math

import pytest
import torch

from envgym_trainer.algorithms.advantages.gdpo import gdpo
from envgym_trainer.algorithms.advantages.gigpo import step_advantages
from envgym_trainer.algorithms.advantages.group import group_advantages
from envgym_trainer.algorithms.advantages.reinforce_pp import reinforce_pp
from envgym_trainer.algorithms.advantages.reinforce_pp_baseline import reinforce_pp_baseline
from envgym_trainer.algorithms.advantages.rloo import rloo
from envgym_trainer.algorithms.advantages.turns import returns_to_go, turn_advantages
from envgym_trainer.algorithms.overlong import overlong_penalty
from envgym_trainer.algorithms.turn_tokens import spread_over_turns, turn_spans
from tests.fakes.advantage_inputs import inputs_of

NAN = math.nan


def test_the_deviation_may_be_that_of_the_batch_and_of_a_sample():
    rewards = torch.tensor([[1.0, 0.0], [3.0, 0.0]])  # batch mean 1, squares 0 + 1 + 4 + 1 = 6
    assert group_advantages(rewards, std="batch", eps=0.0)[0].tolist() == pytest.approx(
        [0.5 / 1.5**0.5, -0.5 / 1.5**0.5]
    )
    assert group_advantages(rewards, std="batch", ddof=1, eps=0.0)[0, 0].item() == pytest.approx(
        0.5 / 2**0.5
    )
    assert group_advantages(rewards, ddof=1, eps=0.0)[1].tolist() == pytest.approx(
        [1.5 / 4.5**0.5, -1.5 / 4.5**0.5]
    )


def test_rloo_compares_each_episode_with_the_mean_of_the_others():
    assert rloo(inputs_of(torch.tensor([[3.0, 1.0, 2.0]]))).tolist() == [[1.5, -1.5, 0.0]]


def test_rloo_ignores_void_members_and_a_single_member_gets_zero():
    valid = torch.tensor([[True, False, True], [True, False, False]])
    inputs = inputs_of(torch.tensor([[3.0, 9.0, 1.0], [3.0, 9.0, 9.0]]), valid=valid)
    assert rloo(inputs).tolist() == [[2.0, 0.0, -2.0], [0.0] * 3]


def test_reinforce_pp_compares_with_the_whole_batch():
    rewards = torch.tensor([[1.0, 1.0], [0.0, 9.0]])
    valid = torch.tensor([[True, True], [True, False]])
    # mean 2/3, deviation sqrt(2)/3: a group without variance is compared with the other groups
    expected = torch.tensor([[0.7071068, 0.7071068], [-1.4142136, 0.0]])
    assert torch.allclose(reinforce_pp(inputs_of(rewards, valid=valid), eps=0.0), expected)


def test_reinforce_pp_with_baseline_uses_the_mean_of_the_group_and_the_deviation_of_the_batch():
    # centred 0.5, 2, 0; mean square (2 * 0.25 + 2 * 4) / 6
    rewards = torch.tensor([[1.0, 0.0], [4.0, 0.0], [7.0, 7.0]])
    found = reinforce_pp_baseline(inputs_of(rewards), eps=0.0)
    deviation = (8.5 / 6) ** 0.5
    assert torch.allclose(found, torch.tensor([[0.5, -0.5], [2.0, -2.0], [0.0, 0.0]]) / deviation)
    assert found[2].tolist() == [0.0, 0.0]  # a group without variance gets exact zeros


def of_parts(parts, *, weights=None, valid=None):
    """Return parts, shape (M, P, G), as inputs together with the rewards that they add up to."""
    weights = torch.ones(len(parts)) if weights is None else weights
    valid = torch.ones_like(parts, dtype=torch.bool) if valid is None else valid
    rewards = (weights[:, None, None] * parts.masked_fill(~valid, 0.0)).sum(dim=0)
    return inputs_of(rewards, parts=parts, part_valid=valid, part_weights=weights)


def test_gdpo_normalizes_each_part_before_the_sum_so_that_mixtures_with_one_sum_stay_distinct():
    parts = torch.tensor([[[1.0, 0.0, 0.0, 1.0]], [[0.0, 4.0, 0.0, 4.0]]])  # (2 parts, 1 group, 4)
    found = gdpo(of_parts(parts), eps=0.0)[0]
    # each part gives +1 or -1; sums 0, 0, -2, 2; batch deviation sqrt(2)
    assert torch.allclose(found, torch.tensor([0.0, 0.0, -1.4142136, 1.4142136]), atol=1e-6)


def test_gdpo_weighs_the_normalized_parts():
    parts = torch.tensor([[[1.0, 0.0]], [[0.0, 9.0]]])
    found = gdpo(of_parts(parts, weights=torch.tensor([3.0, 1.0])), eps=0.0)
    assert found[0].tolist() == pytest.approx([1.0, -1.0])  # sums 3 - 1 and -3 + 1


def test_gdpo_ignores_parts_that_do_not_apply_and_dead_groups():
    parts = torch.tensor([[[1.0, 0.0, 7.0], [0.3, 0.3, 0.3]], [[7.0, 7.0, 5.0], [0.1, 0.1, 0.1]]])
    valid = parts != 7.0
    found = gdpo(of_parts(parts, valid=valid), eps=0.0)
    assert found.isfinite().all()
    assert found[0, 0] == -found[0, 1] > 0
    # the only episode with the second part: there is nothing to compare it with
    assert found[0, 2] == 0
    assert found[1].tolist() == [0.0] * 3


def test_gdpo_does_not_amplify_the_float_noise_of_opposed_parts():
    good = torch.tensor([[0.1, 0.7, 0.3]])
    assert gdpo(of_parts(torch.stack([good, 1 - good]))).abs().max() < 5e-3


def by_the_authors(parts, *, ddof):
    """Return GDPO's advantages as the authors' code computes them, for parts of weight 1.

    Each part is divided by its deviation in the group + 1e-6, and the sum by the root of the
    batch's variance + 1e-8 (NVlabs/GDPO).
    """
    parts = parts.double()
    deviation = (parts - parts.mean(-1, keepdim=True)).square().sum(-1, keepdim=True)
    deviation = (deviation / (parts.shape[-1] - ddof)).sqrt()
    total = ((parts - parts.mean(-1, keepdim=True)) / (deviation + 1e-6)).sum(0)
    centered = total - total.mean()
    variance = centered.square().sum() / (total.numel() - ddof)
    return centered / (variance + 1e-8).sqrt()


OPPOSED = {
    "ranges 1 and 6": ([1.0, 0.0, 1.0, 0.0], [-3.0, 3.0, -3.0, 3.0]),
    "ranges 1 and 0.001": ([1.0, 0.0, 1.0, 0.0], [0.0, 0.001, 0.0, 0.001]),
    "ranges 1000 and 1": ([1000.0, 0.0, 250.0, 500.0], [-1.0, 0.0, -0.25, -0.5]),
    "ranges 1e-4 and 1e4": ([1e-4, 0.0, 0.0, 0.0], [0.0, 1e4, 1e4, 1e4]),
    "with an offset": ([5.0, 6.0, 5.0, 6.0], [7.25, 7.0, 7.25, 7.0]),
    "float noise": ([0.1, 0.7, 0.3, 0.9], [-0.3, -2.1, -0.9, -2.7]),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize("eps", [1e-4, 1e-6, 1e-8])
@pytest.mark.parametrize("name", OPPOSED)
def test_gdpo_gives_parts_that_cancel_no_advantage(name, eps, ddof, dtype):
    parts = torch.tensor(OPPOSED[name], dtype=dtype)[:, None, :]
    found = gdpo(of_parts(parts), ddof=ddof, eps=eps)
    # float32 inputs are rounded to 1e-7, and the batch is divided by its deviation + eps
    assert found.abs().max() < 5e-7 / eps if dtype is torch.float32 else 1e-6
    for part in parts:
        alone = gdpo(of_parts(part[None]), ddof=ddof, eps=eps)
        assert alone.abs().max() > 0.8


def test_gdpo_gives_three_parts_that_cancel_no_advantage():
    parts = torch.tensor([[[3.0, 0.0, 3.0, 0.0]], [[0.2, 0.4, 0.2, 0.4]], [[7.0, 5.0, 7.0, 5.0]]])
    weights = torch.tensor([1.0, 2.0, 1.0])
    assert gdpo(of_parts(parts, weights=weights)).abs().max() < 1e-3


def test_gdpo_leaves_the_other_groups_of_a_batch_with_parts_that_cancel():
    parts = torch.tensor(
        [
            [[1.0, 0.0, 1.0, 0.0], [1.0, 0.0, 0.0, 0.0]],
            [[-3.0, 3.0, -3.0, 3.0], [2.0, 0.0, 0.0, 2.0]],
        ]
    )
    found = gdpo(of_parts(parts))
    assert found[0].abs().max() < 1e-3
    assert found[1].abs().max() > 0.5


@pytest.mark.parametrize(
    "values",
    [
        [0.1 + 0.2, 0.3, 0.3, 0.1 + 0.2],
        [1e6 + 1e-10, 1e6, 1e6, 1e6],
        [1.0, 1.0 + 2.3e-16, 1.0, 1.0 - 1.2e-16],
    ],
)
def test_gdpo_gives_a_part_that_differs_by_rounding_alone_little_weight(values):
    noise = torch.tensor([[values]], dtype=torch.float64)
    real = torch.tensor([[[1.0, 0.0, 0.0, 1.0]]], dtype=torch.float64)
    whole = gdpo(of_parts(torch.cat([real, noise])))
    assert torch.allclose(whole, gdpo(of_parts(real)), atol=0.25)


@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize("seed", range(5))
def test_gdpo_equals_the_authors_code(seed, ddof):
    random = torch.Generator().manual_seed(seed)
    scales = torch.tensor([1.0, 3.0, 0.1])[:, None, None]
    parts = scales * torch.rand((3, 4, 6), generator=random, dtype=torch.float64)
    found = gdpo(of_parts(parts, weights=torch.ones(3, dtype=torch.float64)), ddof=ddof, eps=1e-4)
    assert torch.allclose(found, by_the_authors(parts, ddof=ddof), rtol=0, atol=1e-4)


def test_the_overlong_punishment_falls_in_a_straight_line():
    lengths = torch.tensor([10.0, 80.0, 90.0, 100.0, 500.0])
    assert overlong_penalty(lengths, max_tokens=100, cache_tokens=20).tolist() == pytest.approx(
        [0.0, 0.0, -0.5, -1.0, -1.0]
    )


def test_returns_to_go_are_discounted_by_turns():
    assert returns_to_go(torch.tensor([1.0, 0.0, 4.0]), discount=0.5).tolist() == [2.0, 2.0, 4.0]


def test_a_turn_is_a_run_of_sampled_tokens():
    mask = torch.tensor([False, True, True, False, True, False, False, True])
    assert turn_spans(mask) == [(1, 3), (4, 5), (7, 8)]
    assert turn_spans(torch.zeros(3, dtype=torch.bool)) == []


def test_a_turns_advantage_lies_on_its_own_tokens_and_on_no_other():
    mask = torch.tensor([False, False, True, True, False, True, False, True, True])
    assert spread_over_turns(torch.tensor([1.0, -2.0, 3.0]), mask).tolist() == [
        0,
        0,
        1.0,
        1.0,
        0,
        -2.0,
        0,
        3.0,
        3.0,
    ]
    with pytest.raises(ValueError, match="2 turn values for 3 turns"):
        spread_over_turns(torch.ones(2), mask)


def test_turn_advantages_by_hand():
    # Two episodes with returns (1, 3) and (0). Each episode counts once: mean (2 + 0) / 2 = 1;
    # squares ((0 + 4) / 2 + 1) / 2 = 1.5.
    returns = torch.tensor([[[1.0, 3.0], [0.0, NAN]]])
    expected = torch.tensor([[[0.0, 2.0], [-1.0, 0.0]]])
    assert torch.allclose(turn_advantages(returns, valid=~returns.isnan(), std="none"), expected)
    assert torch.allclose(
        turn_advantages(returns, valid=~returns.isnan(), eps=0.0), expected / 1.5**0.5
    )


def test_without_discount_and_turn_rewards_turn_advantages_are_grpos():
    rewards = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.25, 1.0]])
    turns = torch.tensor([[1, 3, 2], [2, 2, 1]])
    valid = torch.arange(3) < turns[..., None]
    found = turn_advantages(rewards[..., None].expand(2, 3, 3), valid=valid, eps=1e-4)
    assert torch.allclose(found, group_advantages(rewards)[..., None] * valid, atol=1e-6)


def test_a_group_whose_turns_agree_or_with_one_member_has_no_lesson():
    returns = torch.tensor([[[1.0, 1.0], [1.0, NAN]], [[1.0, 3.0], [NAN, NAN]]])
    assert turn_advantages(returns, valid=~returns.isnan()).abs().max() == 0


def test_step_groups_compare_turns_from_one_state():
    returns = torch.tensor([1.0, 0.0, 5.0, 2.0, 2.0])
    states = torch.tensor([4, 4, 9, 6, 6])
    assert step_advantages(returns, states, scale_by_std=False).tolist() == [
        0.5,
        -0.5,
        0.0,
        0.0,
        0.0,
    ]
    assert step_advantages(returns, states, eps=0.0).tolist() == [1.0, -1.0, 0.0, 0.0, 0.0]
