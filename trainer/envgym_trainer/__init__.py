"""Train small open models on envgym environments with GRPO and LoRA. See `train`.

The public names are imported on first use, so `import envgym_trainer` does not load torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from envgym_trainer.algorithms.advantages import AdvantageInputs, advantage
    from envgym_trainer.algorithms.losses import LossInputs, TokenLosses, loss
    from envgym_trainer.batch import Batch, Sample
    from envgym_trainer.config import TrainConfig
    from envgym_trainer.inference import Engine, EngineInputs, open_engine
    from envgym_trainer.learner.learner import Learner
    from envgym_trainer.learner.update_settings import UpdateSettings
    from envgym_trainer.model.adapter_files import save_adapter, verify_adapter
    from envgym_trainer.model.chat import Chat
    from envgym_trainer.model.load import load_model
    from envgym_trainer.model.lora import attach_lora
    from envgym_trainer.rollout.plans import TrainingPlan
    from envgym_trainer.run.folder import RunFolder
    from envgym_trainer.run.logger import RunLogger
    from envgym_trainer.training.loop import Trainer
    from envgym_trainer.training.train import TrainResult, train

_HOMES = {
    "envgym_trainer.algorithms.advantages": ("AdvantageInputs", "advantage"),
    "envgym_trainer.algorithms.losses": ("LossInputs", "TokenLosses", "loss"),
    "envgym_trainer.batch": ("Batch", "Sample"),
    "envgym_trainer.config": ("TrainConfig",),
    "envgym_trainer.inference": ("Engine", "EngineInputs", "open_engine"),
    "envgym_trainer.learner.learner": ("Learner",),
    "envgym_trainer.learner.update_settings": ("UpdateSettings",),
    "envgym_trainer.model.adapter_files": ("save_adapter", "verify_adapter"),
    "envgym_trainer.model.chat": ("Chat",),
    "envgym_trainer.model.load": ("load_model",),
    "envgym_trainer.model.lora": ("attach_lora",),
    "envgym_trainer.rollout.plans": ("TrainingPlan",),
    "envgym_trainer.run.folder": ("RunFolder",),
    "envgym_trainer.run.logger": ("RunLogger",),
    "envgym_trainer.training.loop": ("Trainer",),
    "envgym_trainer.training.train": ("TrainResult", "train"),
}
_LAZY = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "AdvantageInputs",
    "Batch",
    "Chat",
    "Engine",
    "EngineInputs",
    "Learner",
    "LossInputs",
    "RunFolder",
    "RunLogger",
    "Sample",
    "TokenLosses",
    "TrainConfig",
    "TrainResult",
    "Trainer",
    "TrainingPlan",
    "UpdateSettings",
    "advantage",
    "attach_lora",
    "load_model",
    "loss",
    "open_engine",
    "save_adapter",
    "train",
    "verify_adapter",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        value = getattr(importlib.import_module(_LAZY[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'envgym_trainer' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
