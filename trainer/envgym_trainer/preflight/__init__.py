"""Check whether a run can learn: `envgym preflight envs/crm.yaml`, and the start of each training.

    adapter                             LoRA settings for training and serving
    prompt, template, end_of_turn       prompt contains the task, history is append-only, stop ids
    are trained
    oracle, noop, splits                oracle is rewarded, no-op earns less, splits are disjoint
    context                             oracle's episodes fit max_context and max_new_tokens
    memory                              estimated memory against free memory
    model, rewards_differ               model's turns are parsed; groups have reward variance

See `envgym check` for the environment itself.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from envgym.errors import EnvgymError, UsageError
from envgym.evaluation.checks.fixture import CheckResult
from envgym_trainer.preflight import conversation, environment, learning, memory
from envgym_trainer.preflight.context import PreflightContext, open_subject
from envgym_trainer.run.metrics import drain_sandbox_metrics

if TYPE_CHECKING:
    from envgym_trainer.training.loop import Trainer

__all__ = [
    "PreflightContext",
    "PreflightFailed",
    "before_training",
    "open_subject",
    "run_preflight",
]

CHECKS: dict[str, Callable[[PreflightContext], CheckResult]] = {
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


class PreflightFailed(UsageError):
    """Error of a failed preflight. The message has each reason with its remedy."""


def run_preflight(
    subject: PreflightContext, *, progress: Callable[[str], None] = lambda check: None
) -> list[CheckResult]:
    """Run all checks in order. An `EnvgymError` raised by a check is reported as a failed check."""
    results = []
    for name, check in CHECKS.items():
        progress(name)
        try:
            results.append(check(subject))
        except EnvgymError as error:
            results.append(CheckResult(name, False, str(error)))
    return results


def before_training(trainer: Trainer) -> None:
    """Run the preflight of a training run, print the result and write `preflight.json`.

    Raises:
        PreflightFailed: If a check failed.
    """
    mode = trainer.config.checks.preflight
    if mode == "off":
        return
    started = time.monotonic()
    subject = PreflightContext(
        trainer.spec,
        trainer.config,
        trainer.world,
        trainer.chat,
        trainer.engine,
        trainer.model,
        is_full=mode == "full",
    )
    results = run_preflight(subject)
    drain_sandbox_metrics(trainer.world)  # resets them: the first step must not count the preflight
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
        way_on = "To train anyway, set train.checks.preflight=off."
        raise PreflightFailed("\n".join(["this run cannot learn:", *failed, way_on]))
    passed = f"{len(results)} checks passed in {time.monotonic() - started:.0f} s"
    trainer.display.note(f"preflight: {passed} (all checks: envgym preflight {trainer.spec.path})")
