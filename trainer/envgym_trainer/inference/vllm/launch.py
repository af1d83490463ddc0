"""Command and environment of a vLLM server that envgym starts for a run."""

from __future__ import annotations

import os
import shlex

from envgym_trainer.config.engine import VllmConfig
from envgym_trainer.config.server_limits import max_lora_rank
from envgym_trainer.inference import EngineInputs
from envgym_trainer.inference.vllm.server import ManagedServer
from envgym_trainer.model.load import resolve

LOG = "vllm.log"
GPU_FRACTION = 0.5
"""Fraction of the GPU's memory for the server. The trainer needs the rest."""
CPU_CACHE_GIB = 1


def launch(options: VllmConfig, inputs: EngineInputs, *, name: str) -> ManagedServer:
    """Start a server for the run and wait until it answers.

    Args:
        options: Settings of the engine.
        inputs: Settings, model and folder of the run.
        name: Name of the base model on the server.

    Raises:
        PrerequisiteError: If vLLM is not installed, or does not start.
    """
    return ManagedServer(
        [*shlex.split(options.command), *_arguments(options, inputs, name)],
        environment=_environment(on_cpu=_is_on_cpu(inputs), can_sleep=options.sleep),
        log=inputs.folder.absolute() / LOG,
        start_timeout_seconds=options.start_timeout_seconds,
        max_restarts=options.max_restarts,
        notify=inputs.notify,
    )


def _arguments(options: VllmConfig, inputs: EngineInputs, name: str) -> list[str]:
    config = inputs.config
    found = ["serve", str(resolve(config.model.name).path.absolute()), "--served-model-name", name]
    found += ["--enable-lora", "--max-lora-rank", str(max_lora_rank(config.lora.rank))]
    found += ["--max-loras", "1", "--max-cpu-loras", "2"]  # the old version and the new one
    found += ["--logprobs-mode", "processed_logprobs"]
    found += ["--max-model-len", str(config.rollout.max_context_tokens)]
    found += ["--dtype", str(inputs.model.dtype).removeprefix("torch.")]
    if _is_on_cpu(inputs):
        # A seeded request whose prompt is split into chunks ends the engine on a CPU.
        found += ["--no-enable-chunked-prefill", "--enforce-eager"]
    else:
        found += ["--gpu-memory-utilization", str(GPU_FRACTION)]
    if options.sleep:
        found += ["--enable-sleep-mode"]
    return [*found, *options.arguments]


def _environment(*, on_cpu: bool, can_sleep: bool) -> dict[str, str]:
    found = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    found["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "True"
    found["VLLM_NO_USAGE_STATS"] = "1"
    if can_sleep:
        found["VLLM_SERVER_DEV_MODE"] = "1"  # the routes /sleep and /wake_up
    if on_cpu:
        found["VLLM_TARGET_DEVICE"] = "cpu"
        found.setdefault("VLLM_CPU_KVCACHE_SPACE", str(CPU_CACHE_GIB))
        # Pinned threads would take the cores of the trainer.
        found.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    return found


def _is_on_cpu(inputs: EngineInputs) -> bool:
    return inputs.model.get_input_embeddings().weight.device.type == "cpu"
