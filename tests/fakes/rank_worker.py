"""Ranks of `test_gradient_identity.py`: processes joined by gloo, each with some of the samples.

    python -m tests.fakes.rank_worker FOLDER

Each rank writes its results to `FOLDER/rank-N.pt`. The shares are uneven on purpose; with three
ranks, the last one has no samples.
"""

import dataclasses
import math
import multiprocessing
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from envgym.errors import UsageError
from envgym_trainer.learner.distributed import ProcessGroup
from envgym_trainer.learner.learner import Learner
from envgym_trainer.learner.update_settings import UpdateSettings
from tests.fakes.tiny_lora import random_samples, tiny_model

SAMPLES = random_samples(3, groups=3, group_size=3)
SHARES = {2: (SAMPLES[:2], SAMPLES[2:]), 3: (SAMPLES[:5], SAMPLES[5:], [])}
STEPS = 3


SETTINGS = UpdateSettings(kl_coef=0.1)


def gradient_of(learner, samples, settings=SETTINGS):
    """Return the gradient of one GRPO step, without the optimiser's update, and its metrics."""
    seen = {}
    learner.optimizer.step = lambda: seen.update(
        {name: value.grad.clone() for name, value in learner.parameters.items()}
    )
    return seen, learner.update(samples, settings)


def learner(ranks=None, **options):
    return Learner(tiny_model(), ranks=ranks, **{"max_grad_norm": 1e9} | options)


def after_steps(learner, shares_of_step):
    """Return the adapter after some optimiser steps."""
    for samples in shares_of_step:
        learner.update(samples, SETTINGS)
    return {name: value.detach().clone() for name, value in learner.parameters.items()}


def poisoned(samples):
    return [dataclasses.replace(samples[0], advantage=math.inf), *samples[1:]]


def what_a_rank_sees(rank, size, group):
    ranks = ProcessGroup.joined(group)
    share = SHARES[size][rank]
    gradient, metrics = gradient_of(learner(ranks), share)
    found = {"gradient": gradient, "metrics": metrics}
    found["adapter"] = after_steps(learner(ranks, max_grad_norm=1.0), [share] * STEPS)
    found["skipped"] = learner(ranks).update(poisoned(share) if rank == 0 else share, SETTINGS)[
        "optimizer/skipped_updates"
    ]
    try:
        Learner(tiny_model(seed=rank), ranks=ranks)
    except UsageError as error:
        found["refused"] = str(error)
    return found


def one_rank(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=3)
    two = dist.new_group([0, 1])
    found = {
        2: what_a_rank_sees(rank, 2, two) if rank < 2 else None,
        3: what_a_rank_sees(rank, 3, None),
    }
    torch.save(found, Path(folder) / f"rank-{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    # Fork before any computation, so that the slow imports run only once.
    processes = [
        multiprocessing.get_context("fork").Process(target=one_rank, args=(rank, sys.argv[1]))
        for rank in range(3)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    sys.exit(any(process.exitcode for process in processes))
