"""Parity with TRL: the same episodes give the same GRPO loss and gradient.

Where the definitions differ, the results differ by the factor that the papers name;
docs/explanation/trl-parity.md has the table of differences. Needs `pip install 'envgym[parity]'`.
TRL's trainer is constructed as a user constructs it, and its `_compute_loss` gets a batch in TRL's
own layout.
"""

import dataclasses

import pytest
import torch

from tests.fakes.small_models import byte_tokenizer
from tests.fakes.tiny_lora import random_samples, tiny_model
from tests.trainer.learner.test_learner import gradient_of_update, largest_difference, on_policy

pytest.importorskip("trl", reason="NOT TESTED, no trl: pip install trl")

from trl import GRPOConfig, GRPOTrainer
from trl.trainer.utils import nanstd

from envgym_trainer.algorithms.advantages.group import group_advantages
from envgym_trainer.learner.learner import Learner
from envgym_trainer.learner.update_settings import UpdateSettings

CLIP_LOW = 0.2
CLIP_HIGH = 0.28
TEMPERATURE = 0.7
LIMIT = 50
SAMPLES = [dataclasses.replace(s, weight=1.0) for s in random_samples(3, groups=3, group_size=4)]
SAMPLES[0] = dataclasses.replace(SAMPLES[0], advantage=0.0)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Use one thread: with two layers of sixteen units a second thread mostly waits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def trl_trainer(folder, *, loss_type, beta, exact=True, pieces=1):
    """Build a real `GRPOTrainer` over the tiny model.

    If `exact`, its scorer, which accumulates in float32, is replaced by a plain forward pass.
    """
    config = GRPOConfig(
        output_dir=str(folder),
        use_cpu=True,
        bf16=False,
        report_to=[],
        disable_tqdm=True,
        importance_sampling_level="token",
        per_device_train_batch_size=len(SAMPLES) // pieces,
        gradient_accumulation_steps=pieces,
        num_generations=4,
        loss_type=loss_type,
        beta=beta,
        epsilon=CLIP_LOW,
        epsilon_high=CLIP_HIGH,
        temperature=TEMPERATURE,
        max_completion_length=LIMIT,
        use_bias_correction_kl=False,
    )
    from datasets import Dataset

    rows = Dataset.from_list([{"prompt": "x"}])
    trainer = GRPOTrainer(
        tiny_model(),
        args=config,
        train_dataset=rows,
        processing_class=byte_tokenizer(),
        reward_funcs=lambda **_: [0.0],
    )
    trainer.current_gradient_accumulation_steps = pieces
    if exact:
        trainer._get_per_token_logps_and_entropies = plain_scores
    return trainer


def plain_scores(model, input_ids, attention_mask, logits_to_keep, **_):
    """Replace TRL's scorer by a plain forward pass in float64.

    Returns:
        Logprobs at the temperature, shape (B, C), entropies, shape (B, C), and no auxiliary loss.
    """
    positions = (attention_mask.cumsum(-1) - 1).clamp(min=0)
    logits = model(
        input_ids=input_ids, attention_mask=attention_mask, position_ids=positions
    ).logits
    logs = (logits[:, -logits_to_keep - 1 : -1] / TEMPERATURE).log_softmax(-1)
    return (
        logs.gather(-1, input_ids[:, -logits_to_keep:, None])[..., 0],
        -(logs.exp() * logs).sum(-1),
        None,
    )


def trl_inputs(samples, *, trainer):
    """Return the samples in TRL's layout.

    Prompts are padded on the left and completions on the right. `tool_mask` is 0 on observations.
    """
    starts = [sample.loss_mask.index(True) for sample in samples]
    prompt = max(starts)
    rest = max(len(s.token_ids) - start for s, start in zip(samples, starts, strict=True))
    rows = {
        name: []
        for name in (
            "prompt_ids",
            "prompt_mask",
            "completion_ids",
            "completion_mask",
            "tool_mask",
            "old",
        )
    }
    for sample, start in zip(samples, starts, strict=True):
        left = prompt - start
        right = rest - (len(sample.token_ids) - start)
        rows["prompt_ids"].append([0] * left + list(sample.token_ids[:start]))
        rows["prompt_mask"].append([0] * left + [1] * start)
        rows["completion_ids"].append(list(sample.token_ids[start:]) + [0] * right)
        rows["completion_mask"].append([1] * (rest - right) + [0] * right)
        rows["tool_mask"].append([int(m) for m in sample.loss_mask[start:]] + [1] * right)
        rows["old"].append(list(sample.old_logprobs[start:]) + [0.0] * right)
    inputs = {name: torch.tensor(values) for name, values in rows.items()}
    inputs["old_per_token_logps"] = inputs.pop(
        "old"
    ).double()  # already rounded to float32, like ours
    inputs["advantages"] = torch.tensor([sample.advantage for sample in samples]).double()
    inputs["num_items_in_batch"] = (inputs["completion_mask"] * inputs["tool_mask"]).sum()
    if trainer.beta:
        ids, mask = (
            torch.cat([inputs[f"prompt_{x}"], inputs[f"completion_{x}"]], dim=1)
            for x in ("ids", "mask")
        )
        with torch.no_grad(), trainer.model.disable_adapter():  # our reference model is the base
            inputs["ref_per_token_logps"] = trainer._get_per_token_logps_and_entropies(
                trainer.model, ids, mask, rest
            )[0]
    return inputs


def trl_gradient(folder, samples, *, loss_type, beta=0.0, exact=True, pieces=1):
    """Return TRL's gradient and loss, accumulated over `pieces` batches of equal length."""
    trainer = trl_trainer(folder, loss_type=loss_type, beta=beta, exact=exact, pieces=pieces)
    trainer.model.train()
    loss = 0.0
    size = len(samples) // pieces
    tokens = trl_inputs(samples, trainer=trainer)["num_items_in_batch"]
    for start in range(0, len(samples), size):
        inputs = trl_inputs(samples[start : start + size], trainer=trainer) | {
            "num_items_in_batch": tokens
        }
        part = trainer._compute_loss(trainer.model, inputs)
        part.backward()
        loss += part.item()
    return {
        n: p.grad
        for n, p in trainer.model.named_parameters()
        if p.requires_grad and p.grad is not None
    }, loss


def ours(samples, *, beta=0.0):
    options = {
        "clip_low": CLIP_LOW,
        "clip_high": CLIP_HIGH,
        "kl_coef": beta,
        "temperature": TEMPERATURE,
    }
    return gradient_of_update(samples, **options), Learner(tiny_model()).update(
        samples, UpdateSettings(**options)
    )["loss"]


def as_stored(samples):
    """Round to float32, as a batch stores its numbers, so that only the definitions can differ."""
    round_off = lambda x: float(torch.tensor(x))
    return [
        dataclasses.replace(
            s,
            old_logprobs=tuple(map(round_off, s.old_logprobs)),
            advantage=round_off(s.advantage),
            weight=round_off(s.weight),
        )
        for s in samples
    ]


@pytest.fixture(scope="module")
def episodes():
    """Return samples of another policy: ratios differ from 1, some are clipped on either side."""
    drawn = as_stored(on_policy(tiny_model(seed=1), SAMPLES, temperature=TEMPERATURE))
    metrics = Learner(tiny_model()).update(
        drawn, UpdateSettings(clip_high=CLIP_HIGH, temperature=TEMPERATURE)
    )
    assert min(metrics["clip_ratio/low_mean"], metrics["clip_ratio/high_mean"]) > 0
    return drawn


def assert_same(left, right, *, factor=1.0, tolerance=1e-9):
    assert (
        largest_difference(left[0], {name: factor * value for name, value in right[0].items()})
        < tolerance
    )
    assert left[1] == pytest.approx(factor * right[1], abs=tolerance)


@pytest.mark.parametrize("beta", [0.0, 0.1])
@pytest.mark.parametrize("loss_type", ["dapo", "bnpo"])
def test_the_token_mean_of_dapo_and_of_one_batch_bnpo_is_our_default(
    loss_type, beta, episodes, tmp_path
):
    assert_same(
        trl_gradient(tmp_path, episodes, loss_type=loss_type, beta=beta), ours(episodes, beta=beta)
    )


@pytest.mark.parametrize("beta", [0.0, 0.1])
def test_dr_grpo_is_our_default_times_tokens_over_rows_times_the_length_limit(
    beta, episodes, tmp_path
):
    factor = sum(sample.num_actions for sample in episodes) / (len(episodes) * LIMIT)
    assert_same(
        trl_gradient(tmp_path, episodes, loss_type="dr_grpo", beta=beta),
        ours(episodes, beta=beta),
        factor=factor,
    )


@pytest.mark.parametrize("beta", [0.0, 0.1])
def test_the_mean_of_sequence_means_of_grpo_is_a_weight_of_one_over_the_length(
    beta, episodes, tmp_path
):
    # The factor 1 / |o_i| of GRPO's eq. 3 is a weight here. The denominator, the sum of all
    # weights, is then the number of episodes.
    weighted = [dataclasses.replace(s, weight=1 / s.num_actions) for s in episodes]
    # A batch keeps weights in float32, hence 1e-7.
    assert_same(
        trl_gradient(tmp_path, episodes, loss_type="grpo", beta=beta),
        ours(weighted, beta=beta),
        tolerance=1e-7,
    )


def test_trls_own_scorer_agrees_within_its_float32_sums(episodes, tmp_path):
    assert_same(
        trl_gradient(tmp_path, episodes, loss_type="dapo", beta=0.1, exact=False),
        ours(episodes, beta=0.1),
        tolerance=1e-5,
    )


def test_accumulated_over_pieces_dapo_stays_what_it_is_and_bnpo_becomes_another_loss(
    episodes, tmp_path
):
    # pieces with clearly different token counts
    rows = sorted(episodes, key=lambda sample: sample.num_actions)
    assert_same(trl_gradient(tmp_path, rows, loss_type="dapo", pieces=3), ours(rows))
    split, whole = (trl_gradient(tmp_path, rows, loss_type="bnpo", pieces=n)[0] for n in (3, 1))
    # TRL: mean of unequal pieces; our denominator covers the step
    assert largest_difference(split, whole) > 1e-4


def test_advantages_differ_by_the_deviations_degrees_of_freedom_alone():
    rewards = torch.tensor([[1.0, 0.0, 0.0, 0.5], [0.2, 0.3, 0.9, 0.1]], dtype=torch.float64)
    trl = (rewards - rewards.mean(1, keepdim=True)) / (nanstd(rewards, dim=1, keepdim=True) + 1e-4)
    assert torch.allclose(group_advantages(rewards, eps=0.0) * (3 / 4) ** 0.5, trl, rtol=1e-3)
    assert not torch.allclose(group_advantages(rewards), trl, rtol=1e-2)
