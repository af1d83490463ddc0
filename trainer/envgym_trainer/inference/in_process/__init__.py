"""In-process engine: it samples with the trained model's own weights, in batches of dialogues."""

from __future__ import annotations

from envgym_trainer.inference import Engine, EngineInputs


def open_engine(inputs: EngineInputs) -> Engine:
    """Return the engine of a run. See `InProcessEngine`."""
    from envgym_trainer.inference.in_process.engine import InProcessEngine

    rollout = inputs.config.rollout
    return InProcessEngine(
        inputs.model,
        inputs.chat,
        max_context=rollout.max_context_tokens,
        max_batch=rollout.max_concurrent_episodes,
        deterministic=rollout.deterministic,
        notify=inputs.notify,
    )
