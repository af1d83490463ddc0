"""`--policy model:NAME` and `--policy adapter:PATH`: a model on this machine as a policy, through the engine of the trainer.

The engine lives as long as the process; training makes its own.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from envgym.errors import UsageError
from envgym.policies import Policy
from envgym_trainer.inference.in_process.engine import Engine
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
    """A model by its name: built in, a Hugging Face id, or a local directory.

    Args:
        argument: what stands after `model:`.
        temperature: 0 is greedy.
        max_new_tokens: limit of one turn.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        max_context: tokens of a whole dialogue; None is the model's own limit, at most 8192.
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
    """An adapter's folder on top of the base that it names; options as for `open_model`.

    Raises: UsageError when the folder holds no adapter, or not the files that its manifest names.
    """
    from peft import PeftModel

    folder = Path(argument).expanduser()
    base = base_of(folder)
    _verify(folder)
    model, tokenizer = load_model(base, device=device)
    adapted = PeftModel.from_pretrained(model, folder)
    engine = _engine(adapted, tokenizer, template, max_context)
    engine.refresh(adapted)
    return engine.policy(temperature=temperature, max_new_tokens=max_new_tokens)


def base_of(folder: Path) -> str:
    """The base model that an adapter names."""
    path = folder / "adapter_config.json"
    if not path.is_file():
        raise UsageError(
            f"{folder}: no adapter_config.json in this folder. Give an adapter's folder, such as runs/NAME/adapter."
        )
    return json.loads(path.read_text())["base_model_name_or_path"]


def _verify(folder: Path) -> None:
    """Every file is the one that was written; the card may be edited. An adapter of another tool has no manifest to hold it to."""
    if (folder / MANIFEST).is_file():
        verify_files(folder, ignore=["README.md"])
    else:
        log.warning("%s has no %s: its files are taken as they are", folder, MANIFEST)


def _engine(model: Any, tokenizer: Any, template: TemplateName, max_context: int | None) -> Engine:
    limit = min(getattr(model.config, "max_position_embeddings", 8192), 8192)
    return Engine(model, Chat(tokenizer, template, model=model), max_context=max_context or limit)
