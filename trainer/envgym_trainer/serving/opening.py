"""Open what `envgym serve` names: a run, an adapter or a model, on the in-process engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envgym.dialects import DEFAULT_DIALECTS
from envgym.errors import UsageError
from envgym_trainer.inference import Engine
from envgym_trainer.inference.in_process.engine import InProcessEngine
from envgym_trainer.inference.policies.local import adapter_folder, base_of, verified_manifest
from envgym_trainer.model.chat import Chat
from envgym_trainer.model.load import load_model
from envgym_trainer.model.rendering_choice import chat_of_model
from envgym_trainer.serving.served_model import SamplingDefaults

OLD_RENDERINGS = {"compact": "text", "template": "native"}
"""Rendering in the manifests of earlier versions, which called it `tools`."""
MODEL_CONTEXT = 4096
"""Context of a model without an adapter in tokens, if its own limit is not smaller."""


@dataclass(frozen=True, slots=True)
class OpenOptions:
    """Choices of the command line. None keeps those of the adapter."""

    device: str = "auto"
    max_batch: int = 64
    """Conversations that are sampled at once, or whose keys and values are kept."""
    temperature: float | None = None
    max_turn_tokens: int | None = None
    max_context_tokens: int | None = None


def is_adapter(target: str) -> bool:
    """Return whether a target is the folder of a run or of an adapter, and no model."""
    folder = Path(target).expanduser()
    return (folder / "adapter_config.json").is_file() or (folder / "config.yaml").is_file()


def name_of(target: str) -> str:
    """Return the name under which a target is served: that of the run, or of the model."""
    path = Path(target).expanduser()
    if not path.exists():
        return target
    path = path.resolve() if path.name in ("", ".", "..") else path
    return path.absolute().parent.name if path.name == "adapter" else path.name


def check_target(target: str) -> None:
    """Raise UsageError if a target is a folder without a run, an adapter or a model."""
    folder = Path(target).expanduser()
    is_path = target.startswith((".", "/", "~", "runs/")) or target.count("/") > 1
    if not folder.exists() and (is_path or ("/" in target and folder.parent.is_dir())):
        raise UsageError(
            f"{target}: no such folder. Give a run (runs/NAME), an adapter (runs/NAME/adapter), "
            "or a model: a built-in name, a Hugging Face id (org/name) or a folder."
        )
    if folder.is_dir() and not is_adapter(target) and not (folder / "config.json").is_file():
        raise UsageError(
            f"{target}: this folder holds neither a run (config.yaml), nor an adapter "
            "(adapter_config.json), nor a model (config.json)."
        )


def open_target(target: str, options: OpenOptions) -> tuple[Engine, SamplingDefaults]:
    """Load a run, an adapter or a model. The caller closes the engine.

    Args:
        target: Run folder, adapter folder, or name of a model.
        options: Choices that replace those of the adapter.

    Returns:
        The engine, and the sampling settings of requests that name none.

    Raises:
        UsageError: If there is no such target, or if files of the adapter have changed.
        PrerequisiteError: If the model must be downloaded and cannot be.
    """
    check_target(target)
    if is_adapter(target):
        return _open_adapter(adapter_folder(target), options)
    model, tokenizer = load_model(target, device=options.device)
    engine = _engine(model, chat_of_model(tokenizer, model), MODEL_CONTEXT, options)
    return engine, _defaults({}, options)


def _open_adapter(folder: Path, options: OpenOptions) -> tuple[Engine, SamplingDefaults]:
    from peft import PeftModel

    base = base_of(folder)
    manifest = verified_manifest(folder)
    model, tokenizer = load_model(base, device=options.device)
    adapted = PeftModel.from_pretrained(model, folder)
    chat = _trained_chat(folder, manifest, tokenizer, adapted)
    sampling = manifest.get("sampling", {})
    context = int(sampling.get("max_context_tokens", MODEL_CONTEXT))
    engine = _engine(adapted, chat, context, options)
    engine.load_adapter(adapted)
    return engine, _defaults(sampling, options)


def _trained_chat(folder: Path, manifest: Mapping[str, Any], tokenizer: Any, model: Any) -> Chat:
    """Return the chat that the adapter was trained with.

    With `native` rendering its own folder has the template, with the date and the variables of the
    run. A dialect in a Python file is left out: a folder from somebody else may name any file.
    """
    from transformers import AutoTokenizer

    if not manifest:  # of another tool
        return chat_of_model(tokenizer, model)
    prompt = manifest.get("prompt", {})
    recorded = prompt.get("rendering") or OLD_RENDERINGS.get(str(prompt.get("tools")))
    rendering = "native" if recorded == "native" else "text"
    dialects = [str(name) for name in prompt.get("dialects", ()) if ":" not in str(name)]
    own = AutoTokenizer.from_pretrained(folder) if rendering == "native" else tokenizer
    return Chat(
        own,
        manifest.get("template", "auto"),
        model=model,
        rendering=rendering,
        dialects=dialects or DEFAULT_DIALECTS,
        keep_reasoning=bool(prompt.get("keep_reasoning")),
        variables=prompt.get("chat_template_kwargs"),
    )


def _engine(model: Any, chat: Chat, context: int, options: OpenOptions) -> Engine:
    limit = getattr(model.config, "max_position_embeddings", context)
    chosen = options.max_context_tokens or min(context, limit)
    return InProcessEngine(model, chat, max_context=chosen, max_batch=options.max_batch)


def _defaults(sampling: dict[str, Any], options: OpenOptions) -> SamplingDefaults:
    temperature = options.temperature
    if temperature is None:
        temperature = sampling.get("temperature", 1.0)
    max_tokens = options.max_turn_tokens or sampling.get("max_turn_tokens")
    return SamplingDefaults(temperature, None if max_tokens is None else int(max_tokens))
