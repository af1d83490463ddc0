"""Advantage inputs built from plain tables, equal to those that `advantage_inputs` builds."""

import torch

from envgym_trainer.algorithms.advantages import AdvantageInputs


def inputs_of(
    rewards, *, valid=None, parts=None, part_valid=None, part_weights=None, turns=1, **tables
):
    """Return `AdvantageInputs` for rewards of shape (P, G).

    By default every member is valid, the reward is the only part and is paid at the last of
    `turns` turns, no call is invalid, and the first turns of a group start from the same state.
    """
    valid = torch.ones_like(rewards, dtype=torch.bool) if valid is None else valid
    rewards = rewards.masked_fill(~valid, 0.0)
    parts = rewards[None] if parts is None else parts
    part_valid = valid.expand(parts.shape) if part_valid is None else part_valid
    shape = (*rewards.shape, turns)
    turn_rewards = torch.zeros(shape, dtype=rewards.dtype)
    turn_rewards[..., -1] = rewards
    states = torch.arange(rewards.numel() * turns).reshape(shape)
    states[..., 0] = states[:, :1, 0]
    turn_valid = valid[..., None].expand(shape)
    states = states.masked_fill(~turn_valid, -1)
    weights = torch.ones(len(parts), dtype=rewards.dtype) if part_weights is None else part_weights
    made = {
        "rewards": rewards,
        "valid": valid,
        "parts": parts.masked_fill(~part_valid, 0.0),
        "part_valid": part_valid,
        "part_weights": weights,
        "part_names": tuple(f"part{m}" for m in range(len(parts))),
        "turn_rewards": turn_rewards,
        "turn_valid": turn_valid,
        "invalid_calls": torch.zeros(shape, dtype=torch.int64),
        "states": states,
        "observations": states,
    }
    return AdvantageInputs(**(made | tables))
