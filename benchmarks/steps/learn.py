"""One update of one group with one layout.  python -m steps.learn GROUP_JSON MODEL THREADS

`keeps` is "little", as in the learner, or "all", the default of autograd and PEFT.
"""

from __future__ import annotations

import json
import random
import sys
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Literal

import torch

from envgym_trainer.batch import Sample
from envgym_trainer.learner import learner as learner_module
from envgym_trainer.learner.learner import Learner
from envgym_trainer.learner.micro_batches import Layout
from envgym_trainer.learner.update_settings import UpdateSettings
from envgym_trainer.model.load import load_model
from envgym_trainer.model.lora import attach_lora
from steps.work import Clock, peak_mb


@dataclass(frozen=True, slots=True)
class Group:
    """Group members with a common prompt and different responses."""

    layout: Layout
    prompt: int = 512
    response: int = 128
    size: int = 8
    keeps: Literal["little", "all"] = "little"


@dataclass(frozen=True, slots=True)
class Update:
    """Measured time and memory of an update."""

    seconds: float
    cpu_seconds: float
    peak_mb: float
    """Peak memory in MB above the loaded model."""
    forward_tokens: float
    grad_norm: float


def samples(group: Group, vocabulary: int) -> list[Sample]:
    rng = random.Random(0)
    ids = lambda count: [rng.randrange(1, vocabulary) for _ in range(count)]
    prompt = ids(group.prompt)
    made = []
    for member in range(group.size):
        mask = (*[False] * group.prompt, *[True] * group.response)
        old = tuple(-10.0 if sampled else 0.0 for sampled in mask)
        made.append(Sample((*prompt, *ids(group.response)), mask, old, advantage=(-1.0) ** member))
    return made


def main(group: Group, name: str, threads: int) -> Update:
    torch.set_num_threads(threads)
    if group.keeps == "all":
        learner_module.activation_checkpointing = lambda model: nullcontext()
    base, _ = load_model(name, device="cpu", dtype=torch.float32)
    adapted = attach_lora(base, rank=16, alpha=32, seed=0)
    learner = Learner(adapted, layout=group.layout)
    # Warm up: create everything that is created only once.
    settings = UpdateSettings(learning_rate=1e-5)
    learner.update(samples(Group(group.layout, 4, 4, 2), base.config.vocab_size), settings)
    before = peak_mb()
    work = samples(group, base.config.vocab_size)
    clock = Clock()
    metrics = learner.update(work, settings)
    return Update(
        *clock.read(), peak_mb() - before, metrics["batch/forward_tokens"], metrics["grad_norm"]
    )


if __name__ == "__main__":
    print(json.dumps(asdict(main(Group(**json.loads(sys.argv[1])), sys.argv[2], int(sys.argv[3])))))
