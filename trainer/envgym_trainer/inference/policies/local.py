"""Policies `model:NAME` and `adapter:PATH`: a local model with the trainer's engine.

The engine lives until the process ends. Training uses another one.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from envgym.errors import UsageError
from envgym.policies import Policy
from envgym_trainer.inference.in_process.engine import InProcessEngine
from envgym_trainer.model.adapter_files import MANIFEST, verify_files
from envgym_trainer.model.chat import Chat, TemplateName
from envgym_trainer.model.load import load_model

log = logging.getLogger(__name__)


def open_model(
    argument: str,
    *,
    temperature: float = 0.0,
    max_new_tokens: int = 64,
    device: str = "auto",
    template: TemplateName = "auto",
    max_context: int | None = None,
) -> Policy:
    """Open a model as a policy.

    Args:
        argument: Name after `model:`: built-in name, Hugging Face id or local directory.
        temperature: Sampling temperature. 0 is greedy.
        max_new_tokens: Maximum number of new tokens per turn.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        template: Chat template.
        max_context: Maximum length of a dialogue in tokens. Default: the model's limit, at most
            8192.
    """
    model, tokenizer = load_model(argument, device=device)
    engine = _engine(model, tokenizer, template, max_context)
    return engine.policy(temperature=temperature, max_new_tokens=max_new_tokens)


def open_adapter(
    argument: str,
    *,
    temperature: float = 0.0,
    max_new_tokens: int = 64,
    device: str = "auto",
    template: TemplateName = "auto",
    max_context: int | None = None,
) -> Policy:
    """Open an adapter folder as a policy on its base model. Options as for `open_model`.

    Raises:
        UsageError: If the folder has no adapter, or if its files differ from its manifest.
    """
    from peft import PeftModel

    folder = Path(argument).expanduser()
    base = base_of(folder)
    _verify(folder)
    model, tokenizer = load_model(base, device=device)
    adapted = PeftModel.from_pretrained(model, folder)
    engine = _engine(adapted, tokenizer, template, max_context)
    engine.load_adapter(adapted)
    return engine.policy(temperature=temperature, max_new_tokens=max_new_tokens)


def base_of(folder: Path) -> str:
    """Return the name of the adapter's base model."""
    path = folder / "adapter_config.json"
    if not path.is_file():
        raise UsageError(
            f"{folder}: no adapter_config.json in this folder. Give an adapter's folder, such as "
            "runs/NAME/adapter."
        )
    return json.loads(path.read_text())["base_model_name_or_path"]


def _verify(folder: Path) -> None:
    """Verify the files against the manifest, except the model card, which may be edited.

    Adapters of other tools have no manifest.
    """
    if (folder / MANIFEST).is_file():
        verify_files(folder, ignore=["README.md"])
    else:
        log.warning("%s has no %s: its files are taken as they are", folder, MANIFEST)


def _engine(
    model: Any, tokenizer: Any, template: TemplateName, max_context: int | None
) -> InProcessEngine:
    limit = min(getattr(model.config, "max_position_embeddings", 8192), 8192)
    return InProcessEngine(
        model, Chat(tokenizer, template, model=model), max_context=max_context or limit
    )
