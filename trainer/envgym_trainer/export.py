"""Writes the adapter as PEFT and servers load it, and proves that what was written is what was trained.

    adapter_config.json  adapter_model.safetensors     the adapter; its base is named by a public id, never by a local path
    tokenizer.json ...  chat_template.jinja            the very rendering it was trained with
    README.md  manifest.json                           model card; sha256 of every file

Left out: merged models and other formats (GGUF).
"""

from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from envgym.errors import UsageError
from envgym_trainer.chat import Chat
from envgym_trainer.lora import lora_layers, lora_state
from envgym_trainer.replica import Replica

MANIFEST = "manifest.json"


def save_adapter(peft_model: Any, tokenizer: Any, chat: Chat, folder: Path, *, base_id: str, card: str) -> Path:
    """Writes everything a server needs beside the base model; returns the folder.

    Args:
        peft_model: with the trained adapter active.
        tokenizer: of the base model; saved with the chat's template.
        base_id: the base model's public id.
        card: text of README.md (`card.model_card`).
    """
    from safetensors.torch import save_file

    lora_layers(peft_model)  # refuses what no server would load
    folder.mkdir(parents=True, exist_ok=True)
    config = copy.deepcopy(peft_model.peft_config[peft_model.active_adapter])
    config.base_model_name_or_path, config.inference_mode = base_id, True
    config.save_pretrained(folder)
    save_file(lora_state(peft_model), folder / "adapter_model.safetensors", metadata={"format": "pt"})
    own = copy.deepcopy(tokenizer)
    own.chat_template = chat.jinja
    own.save_pretrained(folder)
    (folder / "README.md").write_text(card, encoding="utf-8")
    _write_manifest(folder, base_id, chat)
    return folder


def verify_adapter(folder: Path, peft_model: Any, *, tolerance: float = 1e-5) -> float:
    """Loads the folder with plain PEFT over the same base and compares logits with the model that was trained.

    Returns: the largest difference of a logit, at most `tolerance`.
    Raises: UsageError when a file is not the one that was written, or the logits differ.
    """
    from peft import PeftModel

    verify_files(folder)
    reloaded = PeftModel.from_pretrained(Replica(peft_model).model, folder)
    gap = (_logits(reloaded) - _logits(peft_model)).abs().max().item()
    if not gap <= tolerance:
        raise UsageError(
            f"{folder}: reloaded, this adapter gives other logits than the trained model, by {gap:.2g}. Export it again."
        )
    return gap


def verify_files(folder: Path) -> dict[str, Any]:
    """The manifest, after every file in it has been found unchanged. Raises UsageError naming the first that is not."""
    path = folder / MANIFEST
    if not path.is_file():
        raise UsageError(f"{folder}: no {MANIFEST}, so this is not an adapter that envgym wrote.")
    manifest = json.loads(path.read_text())
    for name, expected in manifest["files"].items():
        if not (folder / name).is_file() or _sha256(folder / name) != expected:
            raise UsageError(
                f"{folder / name}: missing or changed since it was written. Export the adapter again, or fetch it anew."
            )
    return manifest


def _write_manifest(folder: Path, base_id: str, chat: Chat) -> None:
    files = {path.name: _sha256(path) for path in sorted(folder.iterdir()) if path.is_file() and path.name != MANIFEST}
    manifest = {"base_model": base_id, "template": chat.template, "stop_ids": sorted(chat.stop_ids), "files": files}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")


@torch.no_grad()
def _logits(model: Any) -> Tensor:
    """Logits of a fixed text, (1, 32, V), without dropout."""
    device = model.get_input_embeddings().weight.device
    ids = torch.arange(1, 33, device=device).mul(7919).remainder(model.config.vocab_size).unsqueeze(0)
    training = model.training
    try:
        return model.eval()(input_ids=ids, use_cache=False).logits.float()
    finally:
        model.train(training)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
