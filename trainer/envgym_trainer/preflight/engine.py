"""Preflight check of the inference engine: a recommendation for the device."""

from __future__ import annotations

import shutil

from envgym.evaluation.checks.fixture import CheckResult
from envgym_trainer.preflight.context import PreflightContext

MANAGED = "train.engine='{vllm: {start: true}}'"


def engine(subject: PreflightContext) -> CheckResult:
    """Recommend a managed vLLM server on a GPU, where it samples faster than this process."""
    device = subject.model.get_input_embeddings().weight.device.type
    return recommendation(subject.config.engine.name, device)


def recommendation(name: str, device: str) -> CheckResult:
    """Return the result for the engine `name` and a device of torch, such as `cuda`."""
    if device != "cuda" or name != "in_process":
        return CheckResult("engine", True, f"{name} on {device}")
    found = "vLLM is installed" if shutil.which("vllm") else "install vLLM, and add its command"
    return CheckResult(
        "engine",
        True,
        f"{name}, but vLLM samples faster on a GPU. Recommended: {MANAGED} ({found}; see the guide "
        "Inference engines)",
        warning=True,
    )
