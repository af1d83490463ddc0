"""RLOO advantages: leave-one-out baseline."""

from __future__ import annotations

from torch import Tensor

from envgym_trainer.algorithms.advantages import AdvantageInputs, advantage
from envgym_trainer.algorithms.advantages.group import groups_that_agree


@advantage(baseline="group", is_linear=True)
def rloo(inputs: AdvantageInputs) -> Tensor:
    """Return each reward minus the mean reward of the other valid group members, shape (P, G).

    The baseline is unbiased because it does not use the episode's reward. The result is n / (n - 1)
    times the distance to the group mean, with n valid members. Groups with equal rewards or a
    single valid member get zeros.

    References:
        arXiv 2402.14740, section 2. Kool et al. 2019, https://openreview.net/forum?id=r1lgTGL5DE
    """
    rewards = inputs.rewards
    valid = inputs.valid
    known = rewards.masked_fill(~valid, 0.0)
    others = (valid.sum(dim=-1, keepdim=True) - 1).clamp(min=1)  # (P, 1)
    baseline = (known.sum(dim=-1, keepdim=True) - known) / others  # (P, G)
    return (known - baseline).masked_fill(
        ~valid | groups_that_agree(rewards, valid=valid)[:, None], 0.0
    )
