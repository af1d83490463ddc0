"""The gradient of the entropy bonus, and the limit of the KL within a step."""

import math

import pytest
import torch

from envgym_trainer.learner.learner import Learner
from envgym_trainer.learner.logprobs import action_logprobs
from envgym_trainer.learner.update_settings import UpdateSettings
from tests.fakes.tiny_lora import random_samples, tiny_model


@pytest.mark.parametrize("chunk", [2, 256])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_gradient_of_logprob_and_entropy_is_that_of_autograd(temperature, chunk):
    torch.manual_seed(0)
    hidden = torch.randn(5, 6, dtype=torch.float64, requires_grad=True)
    head = torch.randn(11, 6, dtype=torch.float64)
    ids = torch.tensor([3, 0, 10, 3, 7])
    pull = torch.randn(2, 5, dtype=torch.float64)
    found = action_logprobs(
        hidden, head, ids, temperature=temperature, chunk=chunk, entropy_gradient=True
    )
    (gradient,) = torch.autograd.grad((torch.stack(found) * pull).sum(), hidden)
    all_logprobs = (hidden @ head.T / temperature).log_softmax(1)
    wanted = all_logprobs.gather(1, ids[:, None])[:, 0], -(all_logprobs.exp() * all_logprobs).sum(1)
    (expected,) = torch.autograd.grad((torch.stack(wanted) * pull).sum(), hidden)
    torch.testing.assert_close(torch.stack(found), torch.stack(wanted), rtol=0, atol=1e-12)
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-12)


def gradient_of(step, learner):
    seen = {}
    learner.optimizer.step = lambda: seen.update(
        {name: value.grad.clone() for name, value in learner.parameters.items()}
    )
    step()
    return seen


@pytest.mark.parametrize(("layout", "budget"), [("tree", 30), ("tree", 10_000), ("flat", 20)])
def test_the_learners_entropy_bonus_is_the_written_formula_for_every_layout(layout, budget):
    samples = random_samples(0)
    coef = 0.3
    options = {"max_grad_norm": 1e9, "layout": layout, "max_tokens_per_micro_batch": budget}
    ours, plain = (
        gradient_of(
            lambda lr=learner, settings=settings: lr.update(samples, settings),
            learner,
        )
        for learner, settings in (
            (Learner(tiny_model(), **options), UpdateSettings(entropy_coef=coef)),
            (Learner(tiny_model(), **options), UpdateSettings()),
        )
    )
    model = tiny_model()
    total = 0.0
    for sample in samples:
        logprobs = (
            model(input_ids=torch.tensor([sample.token_ids]))
            .logits[0]
            .double()
            .log_softmax(-1)[:-1]
        )
        entropy = -(logprobs.exp() * logprobs).sum(-1)
        total = total + sample.weight * entropy[torch.tensor(sample.loss_mask[1:])].sum()
    (-coef * total / sum(sample.weight * sample.num_actions for sample in samples)).backward()
    for name, value in model.named_parameters():
        if value.requires_grad:
            torch.testing.assert_close(ours[name] - plain[name], value.grad, rtol=0, atol=1e-9)


def test_the_learner_leaves_an_update_out_once_its_samples_are_too_far():
    model = tiny_model()
    before = [value.clone() for value in model.parameters()]
    learner = Learner(model)
    # The samples come from another policy.
    metrics = learner.update(random_samples(0), UpdateSettings(max_kl=1e-6))
    assert (metrics["controller/update_skipped"], learner.updates) == (1.0, 0)
    assert all(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))
    metrics = learner.update(random_samples(0), UpdateSettings(max_kl=1e6))
    assert metrics["controller/update_skipped"] == 0.0
    assert learner.updates == 1


def test_step_kl_is_the_mean_k3_of_sampled_tokens():
    learner = Learner(tiny_model(), max_grad_norm=1e9)
    samples = random_samples(0)
    assert learner.step_kl(samples, UpdateSettings()) == pytest.approx(
        learner.update(samples, UpdateSettings())["kl/old_current"], rel=1e-6
    )
    assert math.isnan(learner.step_kl([], UpdateSettings()))
