"""Groups of answers for tests of self-training."""

import dataclasses

import pytest

from envgym.terms import Term
from envgym_trainer.run.folder import RunFolder
from envgym_trainer.training.launch import resolve, run_training
from tests.trainer.algorithms.test_attribution import of_terms


def nobody_plays(tasks, adapter=None):
    pytest.fail("nobody needs to play")


def answered(task, answer, solved=0.0, **terms):
    """Return an episode as the environment leaves it."""
    made = of_terms(solved=solved, agreed=Term(None, None, 1.0), **terms)
    said = dataclasses.replace(made.messages[-1], role="assistant", content=rf"\boxed{{{answer}}}")
    parts = {name: term.raw for name, term in made.reward_terms.items()}
    return dataclasses.replace(
        made, task_id=task, messages=(*made.messages[:-1], said), reward_parts=parts
    )


def group_of(task, answers, solved=None):
    return [
        answered(task, answer, right)
        for answer, right in zip(answers, solved or [0.0] * len(answers), strict=True)
    ]


def run(folder, *settings, env, resume=False):
    from rich.console import Console

    spec, config, _ = resolve(str(env), settings)
    target = RunFolder.open(folder) if resume else RunFolder.create(folder.parent, folder.name)
    return run_training(spec, config, target, console=Console(quiet=True), resume=resume), target
