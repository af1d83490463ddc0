"""Token sampling follows the statistics of the softmax, including the edge cases."""

import pytest
import torch

from envgym_trainer.inference.in_process.token_sampling import sample


def draw(logits, temperature, uniforms):
    rows = len(uniforms)
    return sample(
        torch.tensor([logits]).expand(rows, -1),
        torch.full((rows,), temperature),
        torch.tensor(uniforms, dtype=torch.float64),
    )


def test_a_number_picks_the_token_whose_share_of_the_line_holds_it():
    # softmax([ln 1, ln 2, ln 1]) = 1/4, 1/2, 1/4
    ids, logprobs = draw([0.0, 0.6931472, 0.0], 1.0, [0.0, 0.24, 0.26, 0.74, 0.76, 0.999])
    assert ids.tolist() == [0, 0, 1, 1, 2, 2]
    assert logprobs.exp().tolist() == pytest.approx([0.25, 0.25, 0.5, 0.5, 0.25, 0.25])


def test_the_temperature_is_in_the_draw_and_in_the_logprob():
    # at temperature 0.5 the odds 1 : 2 become 1 : 4
    ids, logprobs = draw([0.0, 0.6931472], 0.5, [0.19, 0.21])
    assert ids.tolist() == [0, 1]
    assert logprobs.exp().tolist() == pytest.approx([0.2, 0.8])


def test_temperature_zero_takes_the_most_likely_token_and_reports_its_logprob_at_one():
    ids, logprobs = draw([0.0, 0.6931472, 0.0], 0.0, [0.99])
    assert ids.tolist() == [1]
    assert logprobs.exp().tolist() == pytest.approx([0.5])


@pytest.mark.parametrize("vocabulary", [3, 256, 257, 1000])
def test_frequencies_match_the_softmax(vocabulary):
    torch.manual_seed(0)
    logits = torch.randn(vocabulary) * 2
    count = 10_000
    uniforms = (
        torch.arange(count, dtype=torch.float64) + 0.5
    ) / count  # an even grid of random numbers, so counts are exact to one
    ids, _ = sample(logits.expand(count, -1), torch.ones(count), uniforms)
    found = torch.bincount(ids, minlength=vocabulary).double()
    assert (found - count * logits.double().softmax(0)).abs().max() <= 1.01


@pytest.mark.parametrize("uniform", [0.0, 1e-18, 0.5, 1 - 1e-16])
def test_a_token_of_probability_zero_is_never_drawn(uniform):
    logits = torch.full((1, 1000), -torch.inf)
    logits[0, [300, 700]] = 0.0
    ids, _ = sample(logits, torch.ones(1), torch.tensor([uniform], dtype=torch.float64))
    assert ids.item() in (300, 700)


def test_rows_are_drawn_each_at_its_own_temperature():
    logits = torch.tensor([[0.0, 3.0]]).expand(2, 2)
    ids, _ = sample(logits, torch.tensor([0.0, 1e6]), torch.tensor([0.1, 0.1], dtype=torch.float64))
    assert ids.tolist() == [1, 0]
