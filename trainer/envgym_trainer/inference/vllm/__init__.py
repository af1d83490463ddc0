"""Engine `vllm`: a vLLM server that envgym starts, or one at an address.

train.engine='{vllm: {start: true, command: /opt/vllm/bin/vllm}}'
train.engine='{vllm: {url: "http://localhost:8000"}}'
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from envgym_trainer.inference import Engine, EngineInputs

if TYPE_CHECKING:
    from envgym_trainer.config.engine import VllmConfig
    from envgym_trainer.inference.vllm.server import Server

MODEL_NAME = "base"
"""Name of the base model on a server that envgym starts."""


def open_engine(inputs: EngineInputs) -> Engine:
    """Return the engine of a run. See `VllmEngine`."""
    from pathlib import Path

    import torch

    from envgym_trainer.inference.vllm.engine import VllmEngine
    from envgym_trainer.inference.vllm.proof import AdapterProof

    options = inputs.config.engine.vllm
    assert options is not None  # the schema requires it
    proof = AdapterProof(inputs.model, inputs.chat)
    server = _open_server(options, inputs)
    try:
        return VllmEngine(
            server,
            inputs.chat,
            model=MODEL_NAME if options.start else options.model,
            adapters=Path(options.adapter_folder or inputs.folder),
            max_context=inputs.config.rollout.max_context_tokens,
            proof=proof,
            # vLLM takes half precision for most models, also if the local one has float32.
            dtype=None if options.start else torch.bfloat16,
            can_sleep=options.start and options.sleep,
        )
    except BaseException:
        server.close()
        raise


def _open_server(options: VllmConfig, inputs: EngineInputs) -> Server:
    from envgym_trainer.inference.vllm.launch import launch
    from envgym_trainer.inference.vllm.server import RemoteServer

    if options.url is not None:
        return RemoteServer(options.url, key=options.key, wait_seconds=options.wait_seconds)
    return launch(options, inputs, name=MODEL_NAME)
