"""Write an adapter in PEFT's format, and verify that it gives the trained model's logits.

    adapter_config.json  adapter_model.safetensors     adapter; the base is a public id, not a path
    tokenizer.json ...  chat_template.jinja            rendering used in training
    tool_parser.py                                     parser for vLLM, if vLLM has none
    README.md  manifest.json                           model card; sha256 of every file

Not supported: merged models and other formats (GGUF).
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from envgym.errors import UsageError
from envgym_trainer.config.server_limits import RANKS, refusals
from envgym_trainer.files import apply_umask, file_sha256, hash_files
from envgym_trainer.model.chat import Chat
from envgym_trainer.model.lora import lora_layers, lora_state
from envgym_trainer.model.quantize import is_4bit
from envgym_trainer.model.serving_form import PLUGIN, serving_form

MANIFEST = "manifest.json"


def save_adapter(
    peft_model: Any,
    tokenizer: Any,
    chat: Chat,
    folder: Path,
    *,
    base: Any,
    base_id: str,
    sampling: Mapping[str, float],
    card: Callable[[float], str],
    prompt: Mapping[str, Any] | None = None,
    tools: Sequence[Mapping[str, Any]] = (),
    base_name: str | None = None,
) -> Path:
    """Write an adapter with tokenizer, model card and manifest, and verify its weights.

    Args:
        peft_model: Model with the trained adapter active.
        tokenizer: Tokenizer of the base model. It is saved with the chat's template.
        chat: Converter that was used in training.
        folder: Target folder.
        base: Base model without adapters, for `verify_adapter`.
        base_id: Public id or folder of the base model.
        sampling: Settings of the run's evaluations. A policy opened from the folder uses them.
        card: Function from the largest difference of a logit to the text of README.md.
        prompt: Form of the prompt in the run: `rendering`, `dialects` and others.
        tools: Schemas of the environment's tools.
        base_name: Name of the base model for envgym. Default: `base_id`.

    Returns:
        The folder.

    Raises:
        UsageError: If no server can load such an adapter, or the written weights give other logits
            than the trained model.
    """
    save_weights(peft_model, folder, base_id=base_id)
    gap = verify_adapter(folder, peft_model, base)
    own = copy.deepcopy(tokenizer)
    own.chat_template = chat.jinja
    own.save_pretrained(folder)
    (folder / "README.md").write_text(card(gap), encoding="utf-8")
    form = serving_form(chat)
    if form.plugin is not None:
        (folder / PLUGIN).write_text(form.plugin, encoding="utf-8")
    manifest = {
        "base_model": base_name or base_id,
        "template": chat.template,
        "stop_ids": sorted(chat.stop_ids),
        "sampling": dict(sampling),
        "prompt": dict(prompt or {}),
        "rendering": chat.describe(),
        "tools": list(tools),
        "parser": form.parser,
        "largest_logit_difference": gap,
        "files": hash_files(folder, skip=MANIFEST),
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    return folder


def save_weights(peft_model: Any, folder: Path, *, base_id: str) -> Path:
    """Write only the adapter's config and weights, for a server that has the tokenizer.

    Raises:
        UsageError: If no server can load such an adapter.
    """
    from safetensors.torch import save_file

    lora_layers(peft_model)
    config = copy.deepcopy(peft_model.peft_config[peft_model.active_adapter])
    _check_served(config)
    folder.mkdir(parents=True, exist_ok=True)
    config.base_model_name_or_path = base_id
    config.inference_mode = True
    config.save_pretrained(folder)
    weights = folder / "adapter_model.safetensors"
    save_file(lora_state(peft_model), weights, metadata={"format": "pt"})
    apply_umask(weights)
    return folder


def verify_adapter(folder: Path, peft_model: Any, base: Any) -> float:
    """Load the folder with PEFT over the base and compare logits with the trained model.

    Args:
        folder: Folder of the adapter.
        peft_model: Model with the trained adapter active.
        base: Base model without adapters. PEFT adds its layers to it.

    Returns:
        Largest absolute difference of a logit of a fixed text.

    Raises:
        UsageError: If the logits differ by more than rounding.
    """
    from peft import PeftModel

    reloaded = PeftModel.from_pretrained(base, folder)
    gap = (_logits(reloaded) - _logits(peft_model)).abs().max().item()
    if not gap <= _tolerance(peft_model):
        raise UsageError(
            f"{folder}: the reloaded adapter gives other logits than the trained model "
            f"(difference {gap:.2g}). The run's checkpoints have the trained weights."
        )
    return gap


def _tolerance(peft_model: Any) -> float:
    """Return the largest difference of a logit that rounding explains."""
    layers = lora_layers(peft_model).values()
    exact = peft_model.dtype == torch.float32
    return (
        1e-5
        if exact and not any(is_4bit(layer.get_base_layer().weight) for layer in layers)
        else 0.1
    )


def verify_files(folder: Path, *, ignore: Sequence[str] = ()) -> dict[str, Any]:
    """Return the manifest after checking every file in it.

    Args:
        folder: Folder of the adapter.
        ignore: Names of files that may be missing or changed.

    Raises:
        UsageError: If files are missing or changed. The message has both hashes.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise UsageError(
            f"{folder}: no {MANIFEST}, so envgym did not write this adapter. Pass the `adapter` "
            "folder of a run."
        )
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        expected = {str(name): str(sha) for name, sha in manifest["files"].items()}
    except (ValueError, TypeError, LookupError, AttributeError):
        raise UsageError(
            f"{path} is no manifest of an adapter. Export or download the adapter again."
        ) from None
    differing = [
        told
        for name, sha in expected.items()
        if name not in ignore and (told := _differs(folder / name, sha))
    ]
    if differing:
        raise UsageError(f"{folder}: {'; '.join(differing)}. Export or download the adapter again.")
    return manifest


def _differs(file: Path, expected: str) -> str:
    """Return the problem of a file, or an empty string."""
    if not file.is_file():
        return f"{file.name} is missing"
    found = file_sha256(file)
    if found == expected:
        return ""
    return (
        f"{file.name} has changed since it was written "
        f"(sha256 {found[:12]}, written {expected[:12]})"
    )


def _check_served(config: Any) -> None:
    found = refusals(
        rank=config.r,
        dora=config.use_dora,
        bias=config.bias,
        modules_to_save=config.modules_to_save or (),
    )
    if odd := sorted({*config.rank_pattern.values()} - set(RANKS)):
        found.append(f"layers with ranks {odd} of their own (rank_pattern)")
    if found:
        raise UsageError(
            f"no adapter is written: {'; '.join(found)}. To keep only checkpoints, set "
            "train.output.adapter=none."
        )


@torch.no_grad()
def _logits(model: Any) -> Tensor:
    """Return logits of a fixed text without dropout, shape (1, 32, V)."""
    device = model.get_input_embeddings().weight.device
    ids = (
        torch.arange(1, 33, device=device).mul(7919).remainder(model.config.vocab_size).unsqueeze(0)
    )
    training = model.training
    try:
        return model.eval()(input_ids=ids, use_cache=False).logits.float()
    finally:
        model.train(training)
