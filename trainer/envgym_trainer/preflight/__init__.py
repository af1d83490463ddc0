"""Check whether a run can learn: `envgym preflight envs/crm.yaml`, and the start of each training.

`CHECKS` has all checks in their order; the docstring of each function describes it. See `envgym
check` for the environment itself.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable

from envgym.errors import EnvgymError, UsageError
from envgym.evaluation.checks.fixture import CheckResult
from envgym_trainer.preflight import conversation, engine, environment, learning, memory
from envgym_trainer.preflight.context import PreflightContext, open_preflight
from envgym_trainer.run.folder import RunFolder
from envgym_trainer.run.metrics import drain_sandbox_metrics

__all__ = [
    "PreflightContext",
    "PreflightFailed",
    "before_training",
    "open_preflight",
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
    "engine": engine.engine,
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


def before_training(
    subject: PreflightContext, folder: RunFolder, *, notify: Callable[[str], None]
) -> None:
    """Run the preflight of a training run, unless `train.checks.preflight` is off.

    Args:
        subject: Environment, settings and model of the run.
        folder: Run folder. The results are written to its `preflight.json`.
        notify: Receives each warning and a summary.

    Raises:
        PreflightFailed: If a check failed.
    """
    if subject.config.checks.preflight == "off":
        return
    started = time.monotonic()
    results = run_preflight(subject)
    drain_sandbox_metrics(subject.world)  # resets them: the first step must not count the preflight
    plain = [
        {"id": r.id, "passed": r.passed, "warning": r.warning, "detail": r.detail} for r in results
    ]
    (folder.path / "preflight.json").write_text(
        json.dumps(plain, ensure_ascii=False, indent=1), encoding="utf-8"
    )
    for result in results:
        if result.warning:
            notify(f"warning: {result.id}: {result.detail}")
    if failed := [f"  {result.id}: {result.detail}" for result in results if not result.passed]:
        remedy = "To train anyway, set train.checks.preflight=off."
        raise PreflightFailed("\n".join(["this run cannot learn:", *failed, remedy]))
    passed = f"{len(results)} checks passed in {time.monotonic() - started:.0f} s"
    notify(f"preflight: {passed} (all checks: envgym preflight {subject.spec.path})")
