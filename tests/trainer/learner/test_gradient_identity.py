"""The gradient equals the written formula for every layout, micro-batch split, order and rank.

Float64 throughout, to 1e-9. The reference is plain autograd through the model's own forward pass,
one episode at a time, with all logits and the paper's formula written out. It shares no code with
the learner.
"""

import os
import random
import subprocess
import sys
from itertools import pairwise

import pytest
import torch

from envgym.errors import UsageError
from envgym_trainer.batch import flat_batch
from envgym_trainer.learner.distributed import ProcessGroup, refuse_launcher
from envgym_trainer.learner.learner import Learner
from envgym_trainer.learner.prefix_tree import tree_batch
from envgym_trainer.learner.update_settings import UpdateSettings
from envgym_trainer.training.launch import start
from tests.fakes.rank_worker import SAMPLES, STEPS, after_steps, gradient_of, learner
from tests.fakes.tiny_lora import tiny_model

MAKE = {"tree": tree_batch, "flat": flat_batch}
CLIP_LOW = 0.2
CLIP_HIGH = 0.28
KL = 0.1
TEMPERATURE = 0.7
SETTINGS = UpdateSettings(
    clip_low=CLIP_LOW, clip_high=CLIP_HIGH, kl_coef=KL, temperature=TEMPERATURE
)


def written_formula():
    """Return gradient and loss of the GRPO objective, summed over all sampled tokens.

    -sum_t w (min(r A, clip(r) A) - kl_coef k3) / sum_t w: DAPO eq. 8 with GRPO's KL.
    """
    model = tiny_model()
    terms = []

    def scored(ids, mask):
        log_probabilities = (model(input_ids=ids[None]).logits[0, :-1] / TEMPERATURE).log_softmax(
            -1
        )
        return log_probabilities.gather(1, ids[1:, None])[mask, 0]

    for sample in SAMPLES:
        ids = torch.tensor(sample.token_ids)
        mask = torch.tensor(sample.loss_mask)[1:]
        logprobs = scored(ids, mask)
        with torch.no_grad(), model.disable_adapter():
            reference = scored(ids, mask)
        old = torch.tensor(sample.old_logprobs)[1:][mask]  # float32, as a batch stores it
        # float32 too
        ratio = (logprobs - old).exp()
        advantage = torch.tensor(sample.advantage).item()
        kl = (reference - logprobs).exp() - 1 - (reference - logprobs)
        objective = (
            torch.minimum(ratio * advantage, ratio.clamp(1 - CLIP_LOW, 1 + CLIP_HIGH) * advantage)
            - KL * kl
        )
        terms.append(-sample.weight * objective.sum())
    loss = torch.stack(terms).sum() / sum(
        sample.weight * sum(sample.loss_mask) for sample in SAMPLES
    )
    loss.backward()
    return {
        name: value.grad for name, value in model.named_parameters() if value.requires_grad
    }, loss.item()


@pytest.fixture(scope="module")
def formula():
    gradient, loss = written_formula()
    assert max(value.abs().max() for value in gradient.values()) > 1e-3  # zeros would prove nothing
    return gradient, loss


def gap(left, right):
    assert left.keys() == right.keys()
    return max((left[name] - right[name].double()).abs().max().item() for name in left)


@pytest.mark.parametrize("budget", [1, 40, 10_000])
@pytest.mark.parametrize("layout", ["tree", "flat"])
def test_every_layout_and_token_budget_gives_the_gradient_and_loss_of_the_written_formula(
    layout, budget, formula
):
    gradient, metrics = gradient_of(
        learner(layout=layout, max_tokens_per_micro_batch=budget), SAMPLES, SETTINGS
    )
    assert gap(gradient, formula[0]) < 1e-9
    assert metrics["loss"] == pytest.approx(formula[1], abs=1e-9)


@pytest.mark.parametrize("pieces", [1, 2, 4, len(SAMPLES)])
def test_every_number_of_accumulated_pieces_gives_it_for_all_cuts_and_layouts(pieces, formula):
    rng = random.Random(pieces)
    for _ in range(2):
        rows = rng.sample(SAMPLES, len(SAMPLES))
        cuts = [0, *sorted(rng.sample(range(1, len(rows)), pieces - 1)), len(rows)]
        one = learner()
        made = [
            MAKE[rng.choice(["tree", "flat"])](rows[start:end]) for start, end in pairwise(cuts)
        ]
        one.micro_batches = lambda samples, made=made: made
        assert len(made) == pieces
        assert gap(gradient_of(one, SAMPLES, SETTINGS)[0], formula[0]) < 1e-9


@pytest.mark.parametrize("layout", ["tree", "flat"])
def test_every_order_of_the_rows_gives_it(layout, formula):
    for seed in range(2):
        rows = random.Random(seed).sample(SAMPLES, len(SAMPLES))
        gradient, _ = gradient_of(
            learner(layout=layout, max_tokens_per_micro_batch=40), rows, SETTINGS
        )
        assert gap(gradient, formula[0]) < 1e-9


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """Return the results of each process with two and with three ranks, by gloo on the CPU."""
    folder = tmp_path_factory.mktemp("ranks")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "tests.fakes.rank_worker", str(folder)]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return [torch.load(folder / f"rank-{rank}.pt", weights_only=False) for rank in range(3)]


@pytest.mark.parametrize("size", [2, 3])
def test_ranks_with_uneven_shares_sum_to_the_gradient_of_one_process(ranks, size):
    alone, metrics = gradient_of(learner(), SAMPLES)
    for rank in range(size):
        found = ranks[rank][size]
        assert gap(found["gradient"], alone) < 1e-9
        assert found["metrics"] == pytest.approx(
            metrics | forward_tokens(found["metrics"]), abs=1e-9
        )


def forward_tokens(metrics):
    """Return the only metrics that may differ, because each rank reads a shared prefix itself."""
    return {
        name: metrics[name]
        for name in ("batch/scored_tokens", "batch/forward_tokens", "batch/compression")
    }


@pytest.mark.parametrize("size", [2, 3])
def test_ranks_make_the_same_updates_to_the_bit_and_those_of_one_process(ranks, size):
    alone = after_steps(learner(max_grad_norm=1.0), [SAMPLES] * STEPS)
    adapters = [ranks[rank][size]["adapter"] for rank in range(size)]
    assert all(gap(adapter, adapters[0]) == 0 for adapter in adapters)
    assert gap(adapters[0], alone) < 1e-9


@pytest.mark.parametrize("size", [2, 3])
def test_a_share_that_is_not_finite_makes_every_rank_skip(ranks, size):
    assert [ranks[rank][size]["skipped"] for rank in range(size)] == [1.0] * size


@pytest.mark.parametrize("size", [2, 3])
def test_ranks_that_start_from_different_adapters_are_refused_on_every_rank(ranks, size):
    assert all("different adapters" in ranks[rank][size]["refused"] for rank in range(size))


def test_joining_without_a_process_group_is_refused_with_the_remedy():
    with pytest.raises(UsageError, match="init_process_group"):
        ProcessGroup.joined()


def test_one_process_alone_sends_nothing():
    one = ProcessGroup()
    assert (one.gather("x"), one.total(0.5)) == (["x"], 0.5)
    assert Learner(tiny_model()).ranks == one


def test_training_under_torchrun_is_refused_since_each_process_would_train_a_run_of_its_own(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="without torchrun"):
        start("guess", [], out=tmp_path, name=None, resume=None)
    assert not list(tmp_path.iterdir())
    refuse_launcher({"RANK": "0", "WORLD_SIZE": "1"})  # one process under a launcher
    refuse_launcher({"WORLD_SIZE": "4"})
