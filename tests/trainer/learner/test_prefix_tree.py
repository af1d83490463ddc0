"""The prefix tree: shared tokens, the attention mask, and gradients equal to the flat layout."""

import itertools

import pytest
import torch

from envgym_trainer.batch import Sample, flat_batch
from envgym_trainer.learner.learner import Learner
from envgym_trainer.learner.prefix_tree import split_samples, tree_batch
from envgym_trainer.learner.tree_attention import attention_blocks
from tests.fakes.tiny_lora import random_samples, tiny_model


def sample(ids, first_sampled, advantage=1.0):
    """Build a sample whose ids from `first_sampled` on are sampled."""
    return Sample(
        tuple(ids), tuple(t >= first_sampled for t in range(len(ids))), (0.0,) * len(ids), advantage
    )


def gradients(model, batches):
    """Return the gradient of a sum that weights every entry differently.

    Attention blocks are small, so that a tree has many of them.
    """
    learner = Learner(model)
    learner.attention_block = 7
    for batch in batches:
        logprobs, _ = learner.logprobs(batch)
        (
            logprobs[batch.action_nodes] * (batch.advantages * batch.weights).double() / 7
        ).sum().backward()
    collected = {name: value.grad.clone() for name, value in learner.parameters.items()}
    model.zero_grad()
    return collected


def largest_difference(left, right):
    assert left.keys() == right.keys()
    return max((left[name] - right[name]).abs().max().item() for name in left)


def test_shared_prompts_and_shared_sampled_prefixes_are_read_once():
    batch = tree_batch(
        [sample([1, 2, 3, 4, 9], 2), sample([1, 2, 3, 5, 9], 2), sample([1, 2, 6, 9], 2)]
    )
    assert batch.input_ids.tolist() == [[1, 2, 3, 4, 5, 6]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 3, 2]]
    assert (batch.num_tokens, batch.num_flat_tokens) == (6, 11)


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_a_token_sees_its_ancestors_and_itself_and_nothing_else(size):
    batch = tree_batch([sample([1, 2, 3, 9], 1), sample([1, 4, 5, 9], 1)])  # row: 1 2 3 4 5
    blocks = attention_blocks(batch.subtree_end, size=size)
    seen = [batch.input_ids[0, block.keys][row].tolist() for block in blocks for row in block.mask]
    assert seen == [[1], [1, 2], [1, 2, 3], [1, 4], [1, 4, 5]]


def test_a_block_leaves_out_what_none_of_its_tokens_sees():
    # row: 1 2 3 4 | 5 6 7
    batch = tree_batch([sample([1, 2, 3, 4, 9], 1), sample([1, 5, 6, 7, 9], 1)])
    assert [block.keys.tolist() for block in attention_blocks(batch.subtree_end, size=4)] == [
        [0, 1, 2, 3],
        [0, 4, 5, 6],
    ]


def test_an_id_that_several_siblings_sampled_after_the_same_history_is_scored_once():
    batch = tree_batch([sample([1, 2, 3], 1, advantage=1.0), sample([1, 2, 4], 1, advantage=-1.0)])
    assert list(zip(batch.score_positions.tolist(), batch.score_ids.tolist(), strict=True)) == [
        (0, 2),
        (1, 3),
        (1, 4),
    ]
    assert batch.action_nodes.tolist() == [0, 1, 0, 2]
    assert batch.advantages.tolist() == [1.0, 1.0, -1.0, -1.0]


def test_the_same_ids_in_another_place_are_not_shared():
    batch = tree_batch([sample([1, 2, 2, 9], 1), sample([2, 2, 2, 9], 1)])
    assert batch.num_tokens == 6


@pytest.mark.parametrize("seed", range(8))
def test_tree_and_flat_have_equal_logprobs_and_gradients(seed):
    model = tiny_model(seed=seed)
    samples = random_samples(seed)
    flat = flat_batch(samples)
    tree = tree_batch(samples)
    assert tree.num_tokens < flat.num_tokens
    learner = Learner(model)
    learner.attention_block = 5
    with torch.no_grad():
        scored = [learner.logprobs(batch)[0][batch.action_nodes] for batch in (flat, tree)]
    assert torch.allclose(*scored, rtol=0, atol=1e-9)
    assert largest_difference(gradients(model, [flat]), gradients(model, [tree])) < 1e-9


@pytest.mark.parametrize("max_tokens", [1, 12, 20, 40, 10_000])
def test_gradients_do_not_depend_on_the_cut_into_micro_batches(max_tokens):
    model = tiny_model()
    samples = random_samples(3)
    pieces = [
        tree_batch([samples[i] for i in piece])
        for piece in split_samples(samples, max_tokens=max_tokens)
    ]
    assert (
        largest_difference(gradients(model, [flat_batch(samples)]), gradients(model, pieces)) < 1e-9
    )


def test_what_one_episode_says_leaves_its_siblings_unchanged_to_the_bit():
    learner = Learner(tiny_model(dtype=torch.float32))
    with torch.no_grad():
        before, after = (
            tree_batch([sample([1, 2, 3, 4, 5], 2), sample([1, 2, 6, *rest], 2)])
            for rest in ([7, 8], [9, 8])
        )
        first = [
            learner.logprobs(batch)[0][batch.action_nodes][batch.action_samples == 0]
            for batch in (before, after)
        ]
    assert torch.equal(*first)


def test_every_sample_lands_in_exactly_one_micro_batch_within_the_budget():
    samples = random_samples(5, groups=4)
    pieces = split_samples(samples, max_tokens=40)
    assert sorted(itertools.chain(*pieces)) == list(range(len(samples)))
    assert all(tree_batch([samples[i] for i in piece]).num_tokens <= 40 for piece in pieces)


def test_cuts_fall_between_groups_where_the_least_is_read_twice():
    # 2 shared, then 6, then 1 each
    group = lambda task: [sample([1, 1, *[task] * 6, 10 + member, 9], 8) for member in range(3)]
    samples = [*group(2), *group(3), *group(4), *group(5)]
    pieces = split_samples(samples, max_tokens=20)  # two groups need 2 + 2 * 9 = 20 tokens
    assert [sorted(piece) for piece in pieces] == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]]


def test_a_sample_longer_than_the_budget_gets_a_micro_batch_of_its_own():
    long = sample(range(30), 1)
    short = sample([50, 51, 52], 1)
    assert split_samples([long, short], max_tokens=10) == [[0], [1]]


@pytest.mark.parametrize("layout", [tree_batch, flat_batch])
def test_streams_of_one_sample_train_as_samples_of_their_own(layout):
    model = tiny_model()
    one = [sample(ids, first) for ids, first in (([1, 2, 3, 4], 2), ([1, 5, 6, 7, 8], 3))]
    joined = Sample(
        tuple(token for each in one for token in each.token_ids),
        tuple(flag for each in one for flag in each.loss_mask),
        (0.0,) * 9,
        1.0,
        starts=(4,),
    )
    apart, together = (layout(samples) for samples in (one, [joined]))
    assert together.score_ids.tolist() == apart.score_ids.tolist() == [3, 4, 7, 8]
    assert together.action_samples.tolist() == [0, 0, 0, 0]
    assert largest_difference(gradients(model, [apart]), gradients(model, [together])) < 1e-6


def test_a_stream_cannot_begin_with_a_sampled_token():
    with pytest.raises(ValueError, match="first token of a sample or stream"):
        Sample((1, 2, 3), (False, True, True), (0.0,) * 3, 1.0, starts=(2,))
