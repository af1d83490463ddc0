"""The flat layout: which tokens are scored, by which hidden state; padding is never trained."""

import math

import pytest
import torch

from envgym.policies import TokenTrace
from envgym_trainer.batch import Sample, flat_batch


def sample(ids, mask, *, old=None, **fields):
    return Sample(
        tuple(ids),
        tuple(map(bool, mask)),
        tuple(old or [0.0] * len(ids)),
        **{"advantage": 1.0, **fields},
    )


def test_each_sampled_id_is_scored_by_the_hidden_state_before_it():
    batch = flat_batch([sample([5, 6, 7, 8, 9], [0, 0, 1, 1, 0])])
    # 8 is the last sampled id: neither it nor the ids after it need to be read
    assert batch.input_ids.tolist() == [[5, 6, 7]]
    assert list(
        zip(
            batch.score_rows.tolist(),
            batch.score_positions.tolist(),
            batch.score_ids.tolist(),
            strict=True,
        )
    ) == [
        (0, 1, 7),
        (0, 2, 8),
    ]


def test_rows_are_padded_on_the_right_and_masked_by_length():
    batch = flat_batch([sample([5, 6, 7], [0, 1, 1]), sample([5, 6], [0, 1])], pad_id=6)
    # the 6 in the row below is padding, the 6 above is a token
    assert batch.input_ids.tolist() == [
        [5, 6],
        [5, 6],
    ]
    assert batch.attention_mask.tolist() == [[True, True], [True, False]]
    assert batch.position_ids.tolist() == [[0, 1], [0, 1]]
    assert batch.num_tokens == 3


def test_an_end_token_equal_to_the_pad_is_trained_like_any_other():
    end = pad = 2
    batch = flat_batch(
        [sample([5, 6, end], [0, 1, 1]), sample([5, 6, 7, 8, end], [0, 1, 1, 1, 1])], pad_id=pad
    )
    assert batch.score_ids.tolist().count(end) == 2


def test_entries_carry_the_numbers_of_their_episode():
    samples = [
        sample([5, 6], [0, 1], old=[0, -1.5], advantage=2.0, weight=0.5),
        sample([5, 6, 7], [0, 1, 1], old=[0, -1, -3], advantage=-1.0),
    ]
    batch = flat_batch(samples)
    assert batch.action_samples.tolist() == [0, 1, 1]
    assert batch.old_logprobs.tolist() == [-1.5, -1.0, -3.0]
    assert batch.advantages.tolist() == [2.0, -1.0, -1.0]
    assert batch.weights.tolist() == [0.5, 1.0, 1.0]


def test_what_stands_where_the_mask_is_false_never_reaches_the_batch():
    clean, dirty = (
        flat_batch([sample([5, 6, 7, 8], [0, 1, 0, 1], old=[old, -1, old, -2])])
        for old in (0.0, math.nan)
    )
    assert torch.equal(clean.old_logprobs, dirty.old_logprobs)


def test_a_sample_is_made_of_an_episodes_trace():
    made = Sample.from_trace(TokenTrace((5, 6), (False, True), (0.0, -1.0)), advantage=0.5)
    assert made == Sample((5, 6), (False, True), (0.0, -1.0), advantage=0.5, weight=1.0)
    assert (made.num_actions, made.input_length) == (1, 1)


def test_lengths_that_differ_are_refused():
    with pytest.raises(ValueError, match="got 2 ids, 2 bits, 1 logprobs"):
        Sample((5, 6), (False, True), (0.0,), advantage=1.0)


def test_a_first_token_marked_as_sampled_is_refused():
    with pytest.raises(ValueError, match="first token"):
        sample([5, 6], [1, 1])
