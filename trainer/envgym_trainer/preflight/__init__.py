"""Whether a run can learn, found out before it costs hours: `envgym doctor envs/crm.yaml`, and the start of each training.

    adapter                             what the LoRA settings mean for training and serving
    prompt, template, end_of_turn       the model sees the task, its past is never rewritten, the end of its turns is trained
    oracle, noop, splits                the truth is rewarded, doing nothing less; held-out tasks are not trained on
    context                             the oracle's longest way fits max_context and max_new_tokens
    memory                              what the run takes against what is free
    model, rewards_differ               what the model says is read; its rewards differ, so there is something to learn

Left out: proofs that the environment itself is sound (`envgym check`), and speed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from envgym.errors import EnvgymError, UsageError
from envgym.evaluation.checks.fixture import CheckResult
from envgym_trainer.preflight import conversation, environment, learning, memory
from envgym_trainer.preflight.context import Subject, open_subject
from envgym_trainer.run.metrics import sandbox_metrics

if TYPE_CHECKING:
    from envgym_trainer.training.loop import Trainer

__all__ = ["CannotLearn", "Subject", "before_training", "open_subject", "run_preflight"]

CHECKS: dict[str, Callable[[Subject], CheckResult]] = {
    "adapter": learning.adapter,
    "prompt": conversation.prompt,
    "template": conversation.template,
    "end_of_turn": conversation.end_of_turn,
    "oracle": environment.oracle,
    "noop": environment.noop,
    "splits": environment.splits,
    "context": conversation.context,
    "memory": memory.memory,
    "model": learning.model,
    "rewards_differ": learning.rewards_differ,
}


class CannotLearn(UsageError):
    """A preflight found why this run would learn nothing; the message holds each reason with the way out."""


def run_preflight(
    subject: Subject, *, progress: Callable[[str], None] = lambda check: None
) -> list[CheckResult]:
    """Every check, in the order in which a failure is best understood. What a check cannot survive is its failure."""
    results = []
    for name, check in CHECKS.items():
        progress(name)
        try:
            results.append(check(subject))
        except EnvgymError as error:
            results.append(CheckResult(name, False, str(error)))
    return results


def before_training(trainer: Trainer) -> None:
    """The preflight of a run: a line when all is well, else what to know. Its results are kept in `preflight.json`.

    Raises: CannotLearn.
    """
    mode = trainer.config.preflight
    if mode == "off":
        return
    started = time.monotonic()
    subject = Subject(
        trainer.spec,
        trainer.config,
        trainer.world,
        trainer.chat,
        trainer.engine,
        trainer.model,
        is_full=mode == "full",
    )
    results = run_preflight(subject)
    sandbox_metrics(trainer.world)  # what it did is no part of the first step's numbers
    plain = [
        {"id": r.id, "passed": r.passed, "warning": r.warning, "detail": r.detail} for r in results
    ]
    (trainer.folder.path / "preflight.json").write_text(
        json.dumps(plain, ensure_ascii=False, indent=1), encoding="utf-8"
    )
    for result in results:
        if result.warning:
            trainer.display.note(f"warning: {result.id}: {result.detail}")
    if failed := [f"  {result.id}: {result.detail}" for result in results if not result.passed]:
        way_on = "Whoever knows better goes on with train.preflight=off."
        raise CannotLearn("\n".join(["this run cannot learn:", *failed, way_on]))
    passed = f"{len(results)} checks passed in {time.monotonic() - started:.0f} s"
    trainer.display.note(f"preflight: {passed} (all of them: envgym doctor {trainer.spec.path})")
