"""Traps 9-11, 16-18, 21, 22, 24, 26: the gradient equals the written formula in every layout."""

import dataclasses
import math
import random

import pytest
import torch

from envgym.episode import Episode
from envgym.playing import play
from envgym.policies.scripted import ScriptedPolicy
from envgym_trainer.algorithms.advantages.group import group_advantages
from envgym_trainer.batch import Sample, flat_batch
from envgym_trainer.inference.in_process import token_sampling as sampling
from envgym_trainer.learner.learner import Learner
from envgym_trainer.learner.prefix_tree import tree_batch
from envgym_trainer.learner.update_settings import UpdateSettings
from envgym_trainer.run.metrics import episode_metrics
from tests.fakes.losses import loss_of
from tests.fakes.tiny_lora import random_samples, split_options, tiny_model
from tests.fakes.trap_worlds import NonceEnv


def sample(ids, mask, *, old=None, **fields):
    return Sample(
        tuple(ids),
        tuple(map(bool, mask)),
        tuple(old or [0.0] * len(ids)),
        **{"advantage": 1.0, **fields},
    )


def gradient(samples, *, model=None, **options) -> torch.Tensor:
    """Return the gradient that one step passes to the optimizer, as one float64 vector.

    Parameters without a gradient get zeros.
    """
    options, settings = split_options(options)
    learner = Learner(model or tiny_model(), max_grad_norm=1e9, **options)
    seen = [
        torch.zeros(
            sum(value.numel() for value in learner.parameters.values()), dtype=torch.float64
        )
    ]
    learner.optimizer.step = lambda: seen.append(
        torch.cat([value.grad.flatten() for value in learner.parameters.values()])
    )
    learner.update(samples, settings)
    return seen[-1]


@pytest.mark.trap(9)
@pytest.mark.parametrize("layout", ["flat", "tree"])
def test_the_gradient_is_the_mean_over_all_tokens_for_every_split_and_order(layout):
    samples = random_samples(0, groups=2, group_size=3)
    logprobs = []  # the written formula, sample by sample, without batches
    model = tiny_model()
    for s in samples:
        row = model(input_ids=torch.tensor([s.token_ids])).logits[0, :-1].log_softmax(-1)
        logprobs.append(
            row.gather(1, torch.tensor(s.token_ids[1:])[:, None])[:, 0][
                torch.tensor(s.loss_mask[1:])
            ]
        )
    old = [
        torch.tensor([o for o, m in zip(s.old_logprobs, s.loss_mask, strict=True) if m]).double()
        for s in samples
    ]
    total = sum(s.num_actions * s.weight for s in samples)
    terms = [
        s.weight
        * torch.minimum(
            (n - o).exp() * s.advantage, (n - o).exp().clamp(0.8, 1.2) * s.advantage
        ).sum()
        for s, n, o in zip(samples, logprobs, old, strict=True)
    ]
    trained = [value for value in model.parameters() if value.requires_grad]
    written = torch.cat([g.flatten() for g in torch.autograd.grad(-sum(terms) / total, trained)])
    for budget in (1, 30, 10_000):
        shuffled = random.Random(budget).sample(samples, len(samples))
        found = gradient(shuffled, layout=layout, max_tokens_per_micro_batch=budget)
        assert (found - written).abs().max() < 1e-7  # the batch stores float32
        assert (found - gradient(samples)).abs().max() < 1e-9


@pytest.mark.trap(10)
def test_a_groups_advantages_are_those_worked_out_by_hand_with_and_without_the_deviation():
    # mean 1/4 and 3/4, deviation sqrt(3)/4 in both
    rewards = torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0]])
    root = math.sqrt(3)
    plain = torch.tensor([[0.75, -0.25, -0.25, -0.25], [0.25, 0.25, 0.25, -0.75]])
    assert torch.allclose(group_advantages(rewards, scale_by_std=False), plain)
    assert torch.allclose(group_advantages(rewards, eps=0.0), plain * 4 / root)


@pytest.mark.trap(10)
def test_a_tiny_deviation_does_not_blow_noise_up_to_a_lesson():
    noise = torch.tensor([[0.5, 0.5 + 1e-6, 0.5, 0.5]], dtype=torch.float64)
    assert group_advantages(noise).abs().max() < 0.01
    assert group_advantages(noise, eps=0.0).abs().max() > 1


@pytest.mark.trap(11)
def test_a_group_that_agrees_pulls_nothing_and_dilutes_the_others_by_exactly_its_tokens():
    lesson = random_samples(0)
    idle = [dataclasses.replace(s, advantage=0.0) for s in random_samples(1)]
    tokens = [sum(s.num_actions * s.weight for s in samples) for samples in (lesson, idle)]
    diluted = gradient(lesson) * tokens[0] / sum(tokens)
    assert (gradient([*lesson, *idle]) - diluted).abs().max() < 1e-12
    assert gradient(idle).abs().max() == 0


@pytest.mark.trap(11)
def test_groups_that_agree_are_reported():
    group = lambda *rewards: [
        Episode("e", "t", "train", "", "", 0, (), None, reward, success=reward == 1)
        for reward in rewards
    ]
    metrics = episode_metrics([group(0.0, 0.0), group(1.0, 1.0), group(1.0, 0.0), group(0.0, 0.0)])
    assert metrics["frac_reward_zero_std"] == 0.75
    assert (metrics["group/frac_all_zero"], metrics["group/frac_all_one"]) == (0.5, 0.25)


def scores(samples, *, make, dtype=torch.float32) -> list[torch.Tensor]:
    """Return the logprobs of each sample's sampled tokens, with all samples in one batch."""
    learner = Learner(tiny_model(dtype=dtype))
    batch = make(samples)
    learner.attention_block = 5
    with torch.no_grad():
        logprobs = learner.logprobs(batch)[0][batch.action_nodes]
    return [logprobs[batch.action_samples == index] for index in range(len(samples))]


@pytest.mark.trap(16)
@pytest.mark.parametrize("make", [flat_batch, tree_batch])
def test_a_ragged_batch_gives_each_token_the_logprob_that_its_sample_has_alone(make):
    samples = sorted(random_samples(4), key=lambda s: len(s.token_ids))
    assert len(samples[0].token_ids) < len(samples[-1].token_ids)
    model = tiny_model(dtype=torch.float32)
    for s, together in zip(samples, scores(samples, make=make), strict=True):
        with torch.no_grad():
            row = model(input_ids=torch.tensor([s.token_ids])).logits[0, :-1].log_softmax(-1)
        alone = row.gather(1, torch.tensor(s.token_ids[1:])[:, None])[:, 0][
            torch.tensor(s.loss_mask[1:])
        ]
        assert torch.allclose(together, alone, rtol=0, atol=1e-5)


@pytest.mark.trap(17)
@pytest.mark.parametrize("make", [flat_batch, tree_batch])
def test_another_sample_in_the_pack_leaves_a_samples_logprobs_unchanged_to_the_bit(make):
    # in the middle of a tree, whose branches are sorted by ids
    mine = sample([1, 15, 3, 4, 5], [0, 0, 1, 1, 1])
    before, after = (
        scores(
            [
                sample([1, 9, *other, 8], [0, 0, 1, 1, 1]),
                mine,
                sample([1, 16, *other, 3], [0, 0, 1, 1, 1]),
            ],
            make=make,
        )
        for other in ([6, 7], [20, 21])
    )
    assert torch.equal(before[1], after[1])
    assert not torch.equal(before[0], after[0])


@pytest.mark.trap(18)
@pytest.mark.parametrize("seed", range(4))
def test_the_tree_gives_the_gradient_of_padded_rows_for_random_tries(seed):
    samples = random_samples(seed, groups=4)
    tree, flat = (
        gradient(samples, layout=layout, max_tokens_per_micro_batch=10_000)
        for layout in ("tree", "flat")
    )
    assert tree_batch(samples).num_tokens < 0.7 * flat_batch(samples).num_tokens
    assert (tree - flat).abs().max() < 1e-9


@pytest.mark.trap(21)
@pytest.mark.parametrize("make", [flat_batch, tree_batch])
def test_the_advantage_lands_on_every_sampled_token_from_a_turns_first_to_its_last_and_on_no_other(
    make,
):
    #                 prompt | turn 1  | obs  | turn 2 | obs
    episode = sample(
        [5, 6, 7, 8, 2, 9, 10, 11, 2, 12], [0, 0, 1, 1, 1, 0, 0, 1, 1, 0], advantage=-0.5
    )
    batch = make([episode])
    vector = [0.0] * len(episode.token_ids)
    for node, advantage in zip(batch.action_nodes.tolist(), batch.advantages.tolist(), strict=True):
        vector[int(batch.score_positions[node]) + 1] = (
            advantage  # the hidden state before a token predicts it
        )
    assert vector == [0, 0, -0.5, -0.5, -0.5, 0, 0, -0.5, -0.5, 0]
    assert batch.score_ids.tolist() == [7, 8, 2, 11, 2]


@pytest.mark.trap(21)
def test_the_rewards_of_all_turns_add_up():
    assert play(NonceEnv(turns=3), ScriptedPolicy(["a", "b", "c"]), seed=0, task="x").reward == 3.0


@pytest.mark.trap(22)
def test_k3_in_the_loss_pulls_as_kl_from_the_reference_does_over_a_five_token_vocabulary():
    logits = torch.randn(5, dtype=torch.float64, generator=torch.manual_seed(0)).requires_grad_()
    reference = torch.randn(5, dtype=torch.float64, generator=torch.manual_seed(1)).log_softmax(0)
    policy = logits.log_softmax(0)
    # Each token once, weighted by its probability: the expected loss under the policy.
    out = loss_of(
        "grpo",
        policy,
        policy.detach(),
        torch.zeros(5).double(),
        denominator=1.0,
        ref_logprobs=reference,
        kl_coef=1.0,
        weights=policy.detach().exp(),
    )
    of = lambda value: torch.autograd.grad(value, logits, retain_graph=True)[0]
    forward = (reference.exp() * (reference - policy)).sum()  # KL(reference || policy)
    backward = (policy.exp() * (policy - reference)).sum()  # KL(policy || reference)
    assert out.loss.item() == pytest.approx(
        backward.item()
    )  # the value is KL(policy || reference) ...
    assert torch.allclose(
        of(out.loss), of(forward), atol=1e-12
    )  # ... and the gradient is that of KL(reference || policy)
    assert not torch.allclose(of(out.loss), of(backward), atol=1e-2)


@pytest.mark.trap(24)
@pytest.mark.parametrize("budget", [1, 30, 10_000])
def test_the_learning_rate_follows_its_closed_form_by_updates_for_any_split(budget):
    learner = Learner(tiny_model(), warmup_steps=3, max_tokens_per_micro_batch=budget)
    lessons = [random_samples(seed, groups=1) for seed in range(4)]
    idle = [dataclasses.replace(s, advantage=0.0) for s in lessons[0]]
    rates = []
    for samples in (*lessons[:2], idle, *lessons[2:]):
        updates = learner.updates
        assert learner.update(samples, UpdateSettings(learning_rate=1e-3))[
            "learning_rate"
        ] == pytest.approx(1e-3 * min(1, (updates + 1) / 3))
        rates += [learner.optimizer.param_groups[0]["lr"]] * (learner.updates - updates)
    # a step without advantages makes no update
    assert rates == pytest.approx([1e-3 / 3, 2e-3 / 3, 1e-3, 1e-3])


@pytest.mark.trap(26)
@pytest.mark.parametrize(
    ("samples", "skipped"),
    [
        ([sample([5, 6, 7], [0, 0, 0])], 0),
        ([sample([5, 6], [0, 1])], 0),
        ([sample([5, 6, 7], [0, 0, 0]), sample([5, 6], [0, 1])], 0),
        ([sample([5, 6], [0, 1], advantage=0.0)], 0),
        ([sample([5, 6], [0, 1], advantage=1e15)], 0),
        ([sample([5, 6], [0, 1], advantage=1e30)], 1),  # the gradient's norm overflows float32
        ([sample([5, 6], [0, 1], advantage=math.inf)], 1),
        ([sample([5, 6], [0, 1], old=[0, math.nan])], 1),
        ([sample([5, 6], [0, 1], old=[0, -math.inf])], 1),
        (
            [sample([5, 6], [0, 1], old=[0, -200.0], advantage=-1.0)],
            1,
        ),  # the ratio overflows float32
    ],
    ids=[
        "no action",
        "one action",
        "both",
        "no advantage",
        "large",
        "huge",
        "infinite",
        "nan",
        "impossible",
        "overflow",
    ],
)
def test_whatever_comes_the_update_is_finite_or_skipped_and_counted(samples, skipped):
    learner = Learner(tiny_model(dtype=torch.float32))
    before = [value.clone() for value in learner.parameters.values()]
    metrics = learner.update(samples, UpdateSettings())
    assert all(value.isfinite().all() for value in learner.parameters.values())
    assert metrics["optimizer/skipped_updates"] == skipped
    moved = any(
        not torch.equal(a, b) for a, b in zip(before, learner.parameters.values(), strict=True)
    )
    assert moved == (learner.updates == 1)
    assert learner.updates + skipped == (
        1 if any(s.num_actions and s.advantage for s in samples) else 0
    )


@pytest.mark.trap(26)
def test_equal_and_huge_rewards_give_finite_advantages():
    rewards = torch.tensor([[1e30, 1e30, 1e30], [1e18, -1e18, 0.0], [0.0, 0.0, 0.0]])
    assert group_advantages(rewards).isfinite().all()
    assert group_advantages(rewards)[[0, 2]].abs().max() == 0


@pytest.mark.trap(26)
def test_a_token_whose_logit_is_minus_infinity_is_never_drawn():
    logits = torch.tensor([-math.inf, 0.0, -math.inf, 1.0]).repeat(64, 1)
    ids, logprobs = sampling.sample(
        logits, torch.ones(64), torch.linspace(0, 1 - 1e-9, 64).double()
    )
    assert set(ids.tolist()) == {1, 3}
    assert logprobs.isfinite().all()
