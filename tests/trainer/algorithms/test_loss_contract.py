"""Contract of every loss in the folder. A new file is tested without a change here."""

import inspect
from pathlib import Path

import pytest
import torch

from envgym_trainer.algorithms import losses
from envgym_trainer.algorithms.losses import Loss, LossInputs
from envgym_trainer.algorithms.objective import total_loss
from envgym_trainer.algorithms.registry import find_loss
from envgym_trainer.config.algorithm import LossConfig
from envgym_trainer.config.options import options_model, shipped_names

NAMES = shipped_names("loss")
LENGTHS = (4, 1, 7)


def random_inputs(seed=0, *, requires_grad=False, **fields):
    """Return tokens of three samples whose ratios differ from 1."""
    generator = torch.Generator().manual_seed(seed)
    count = sum(LENGTHS)
    drawn = torch.randn(4, count, dtype=torch.float64, generator=generator)
    old = -drawn[0].abs() - 0.1
    made = {
        "logprobs": (old + 0.3 * drawn[1]).requires_grad_(requires_grad),
        "old_logprobs": old,
        "advantages": drawn[2],
        "weights": drawn[3].abs(),
        "samples": torch.arange(3).repeat_interleave(torch.tensor(LENGTHS)),
        "denominator": 5.0,
    }
    return LossInputs(**(made | fields))


def part_of(inputs, where):
    """Return the same inputs with only some of the tokens."""
    names = ("logprobs", "old_logprobs", "advantages", "weights", "samples")
    return LossInputs(
        **{name: getattr(inputs, name)[where] for name in names}, denominator=inputs.denominator
    )


def test_each_file_is_a_loss_or_the_supervised_one():
    files = {file.stem for file in Path(losses.__file__).parent.glob("*.py")}
    assert files - {"__init__", "sft"} == set(NAMES) >= {"grpo", "gspo", "cispo", "reinforce"}


@pytest.mark.parametrize("name", NAMES)
def test_the_file_holds_a_loss_of_its_name(name):
    loss = find_loss(name)
    assert isinstance(loss, Loss)
    assert loss.name == name


@pytest.mark.parametrize("name", NAMES)
def test_the_options_that_are_read_are_those_of_the_function(name):
    model = options_model("loss", name)
    parameters = inspect.signature(find_loss(name).function).parameters
    options = {n: p.default for n, p in parameters.items() if p.kind is p.KEYWORD_ONLY}
    assert {n: field.default for n, field in model.model_fields.items()} == options
    assert all(field.description for field in model.model_fields.values())
    assert LossConfig(name=name).options == options
    find_loss(name)(random_inputs(), **LossConfig(name=name).options)


@pytest.mark.parametrize("name", NAMES)
def test_shapes_and_no_nan(name):
    for inputs in (random_inputs(), part_of(random_inputs(), slice(0, 0))):
        tokens = find_loss(name)(inputs)
        for value in (tokens.values, tokens.ratio, tokens.low, tokens.high):
            assert value is None or value.shape == inputs.logprobs.shape
        assert tokens.values.isfinite().all()
        assert total_loss(inputs, tokens).loss.isfinite()


@pytest.mark.parametrize("name", NAMES)
def test_a_token_without_an_advantage_has_no_gradient(name):
    inputs = random_inputs(requires_grad=True, advantages=torch.zeros(sum(LENGTHS)).double())
    output = total_loss(inputs, find_loss(name)(inputs))
    output.loss.backward()
    assert output.loss.item() == 0
    assert inputs.logprobs.grad.abs().max() == 0


@pytest.mark.parametrize("name", NAMES)
def test_on_policy_the_gradient_is_that_of_reinforce(name):
    inputs = random_inputs(requires_grad=True)
    inputs = random_inputs(requires_grad=True, old_logprobs=inputs.logprobs.detach())
    total_loss(inputs, find_loss(name)(inputs)).loss.backward()
    expected = -inputs.advantages * inputs.weights / inputs.denominator
    assert torch.allclose(inputs.logprobs.grad, expected, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_micro_batches_add_up_to_the_step(name):
    loss = find_loss(name)
    inputs = random_inputs()
    whole = total_loss(inputs, loss(inputs)).loss
    cuts = [slice(0, LENGTHS[0]), slice(LENGTHS[0], None)]
    parts = sum(total_loss(part, loss(part)).loss for part in (part_of(inputs, c) for c in cuts))
    assert torch.allclose(parts, whole, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_whole_samples_are_needed_if_and_only_if_the_loss_declares_it(name):
    loss = find_loss(name)
    inputs = random_inputs()
    options = {"clip_low": 9.0, "clip_high": 9.0} if LossConfig(name=name).options else {}
    whole = loss(inputs, **options).values
    alone = [loss(part_of(inputs, slice(n, n + 1)), **options).values for n in range(sum(LENGTHS))]
    assert torch.allclose(torch.cat(alone), whole, atol=1e-12) != loss.needs_whole_samples


@pytest.mark.parametrize("name", NAMES)
def test_old_logprobs_matter_if_and_only_if_the_loss_uses_a_ratio(name):
    loss = find_loss(name)
    inputs = random_inputs()
    other = random_inputs(old_logprobs=inputs.old_logprobs - 0.2)
    assert torch.equal(loss(inputs).values, loss(other).values) != loss.uses_ratio
