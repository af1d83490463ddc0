"""Group advantages. The expected numbers are worked out by hand."""

import math

import pytest
import torch

from envgym_trainer.algorithms.advantages.group import group_advantages, groups_that_agree


def test_an_advantage_is_the_distance_to_the_mean_in_units_of_the_groups_deviation():
    rewards = torch.tensor([[1.0, 0.0, 0.0, 0.0]])  # mean 0.25, deviation sqrt(0.1875) = 0.4330
    assert group_advantages(rewards, eps=0.0)[0].tolist() == pytest.approx(
        [1.7320508, -0.5773503, -0.5773503, -0.5773503]
    )


def test_dr_grpo_leaves_the_deviation_out():
    rewards = torch.tensor([[1.0, 0.0, 0.0, 0.0], [4.0, 2.0, 0.0, 2.0]])
    assert group_advantages(rewards, scale_by_std=False).tolist() == [
        [0.75, -0.25, -0.25, -0.25],
        [2.0, 0.0, -2.0, 0.0],
    ]


def test_eps_is_added_to_the_deviation_so_that_tiny_differences_stay_small():
    rewards = torch.tensor([[0.0, 2e-4]], dtype=torch.float64)  # deviation 1e-4
    assert group_advantages(rewards, eps=1e-4)[0].tolist() == pytest.approx([-0.5, 0.5])


@pytest.mark.parametrize("scale_by_std", [True, False])
def test_a_group_that_agrees_gets_exact_zeros(scale_by_std):
    rewards = torch.full((1, 7), 0.1)  # the float mean of seven 0.1 need not be 0.1
    assert group_advantages(rewards, scale_by_std=scale_by_std, eps=0.0).tolist() == [[0.0] * 7]


def test_groups_do_not_see_each_other():
    easy = [1.0, 1.0, 0.0]
    hard = [0.0, 0.0, 1.0]
    together = group_advantages(torch.tensor([easy, hard]))
    alone = group_advantages(torch.tensor([easy]))
    assert torch.equal(together[0], alone[0])


def test_a_void_episode_counts_for_nothing_and_gets_zero():
    rewards = torch.tensor([[1.0, math.nan, 0.0, 1e9]])
    valid = torch.tensor([[True, False, True, False]])
    assert group_advantages(rewards, valid=valid, eps=0.0).tolist() == [[1.0, 0.0, -1.0, 0.0]]


@pytest.mark.parametrize("valid", [[True, False, False], [False, False, False]])
def test_fewer_than_two_valid_members_leave_nothing_to_compare(valid):
    rewards = torch.tensor([[5.0, math.nan, math.nan]])
    valid = torch.tensor([valid])
    assert group_advantages(rewards, valid=valid).tolist() == [[0.0, 0.0, 0.0]]
    assert groups_that_agree(rewards, valid=valid).tolist() == [True]


def test_which_groups_agree():
    assert groups_that_agree(torch.tensor([[1.0, 1.0], [1.0, 0.0], [0.0, 0.0]])).tolist() == [
        True,
        False,
        True,
    ]


def test_a_group_of_one_is_refused_with_the_remedy():
    with pytest.raises(ValueError, match=r"got \(4, 1\). Set group_size to 2 or more"):
        group_advantages(torch.zeros(4, 1))


def test_a_reward_that_is_not_finite_is_refused_unless_void():
    with pytest.raises(ValueError, match="not finite"):
        group_advantages(torch.tensor([[math.nan, 1.0]]))
