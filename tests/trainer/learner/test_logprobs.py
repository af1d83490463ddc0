"""Chunked scoring equals log_softmax over all logits, in values and gradients."""

import pytest
import torch

from envgym_trainer.learner.logprobs import action_logprobs


def rows(*, dtype=torch.float64, n=7, d=5, vocab=11):
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)
    return (
        draw(n, d).requires_grad_(),
        draw(vocab, d),
        torch.randint(vocab, (n,), generator=generator),
    )


def naive(hidden, head, ids, temperature):
    return (hidden @ head.T / temperature).log_softmax(-1).gather(1, ids[:, None]).squeeze(1)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("chunk", [1, 3, 7, 100])
def test_values_and_gradients_equal_log_softmax_for_every_chunk_and_temperature(chunk, temperature):
    hidden, head, ids = rows()
    pull = torch.arange(1.0, 8.0, dtype=torch.float64)
    logprobs, _ = action_logprobs(hidden, head, ids, temperature=temperature, chunk=chunk)
    (mine,) = torch.autograd.grad((logprobs * pull).sum(), hidden)
    expected = naive(hidden, head, ids, temperature)
    (theirs,) = torch.autograd.grad((expected * pull).sum(), hidden)
    assert torch.allclose(logprobs, expected, rtol=0, atol=1e-12)
    assert torch.allclose(mine, theirs, rtol=0, atol=1e-12)


def test_the_gradient_agrees_with_finite_differences():
    hidden, head, ids = rows()
    assert torch.autograd.gradcheck(
        lambda h: action_logprobs(h, head, ids, temperature=0.7, chunk=3)[0], (hidden,)
    )


def test_entropy_of_a_fair_choice_among_four_is_log_four_and_pulls_no_gradient():
    hidden = torch.zeros(1, 2, requires_grad=True)
    logprobs, entropy = action_logprobs(hidden, torch.randn(4, 2), torch.tensor([3]))
    assert entropy.item() == pytest.approx(1.3862944)
    assert logprobs.item() == pytest.approx(-1.3862944)
    assert not entropy.requires_grad


def test_bfloat16_inputs_give_float32_logprobs_and_a_bfloat16_gradient():
    hidden, head, ids = rows(dtype=torch.bfloat16)
    logprobs, entropy = action_logprobs(hidden, head, ids)
    logprobs.sum().backward()
    assert (logprobs.dtype, entropy.dtype, hidden.grad.dtype) == (
        torch.float32,
        torch.float32,
        torch.bfloat16,
    )


def test_no_tokens_are_no_problem():
    hidden, head, ids = rows(n=0)
    logprobs, entropy = action_logprobs(hidden, head, ids)
    logprobs.sum().backward()
    assert logprobs.shape == entropy.shape == (0,)


def test_a_trainable_head_is_refused_because_its_gradient_would_be_missing():
    hidden, head, ids = rows()
    with pytest.raises(ValueError, match="Freeze lm_head"):
        action_logprobs(hidden, head.requires_grad_(), ids)
