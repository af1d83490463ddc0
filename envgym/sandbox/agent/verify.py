"""Run a task's hidden test command on the final files, in a folder the episode never saw.

The caller is a process started after the session's processes ended, so no process of the model can
interfere. The command runs without a shell, in a clean environment and a new process group, which
is killed at the end. Not covered: model code that the test itself imports. The test should run it
as a program, check its output, and delete its file first.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from .file_tree import Tree, with_hidden, write_tree

OUTPUT_BYTES = 8192
"""Bytes kept from the end of the command's output."""
POLL_SECONDS = 0.05
FIXED = {
    "LANG": "C.UTF-8",
    "TZ": "UTC",
    "PYTHONHASHSEED": "0",
    "PYTHONUTF8": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
}
KEPT = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")


def verify(
    tree: Tree, files: dict[str, str], command: list[str], seconds: float, place: str | Path
) -> dict[str, Any]:
    """Run a command on a tree with hidden files added, and return its exit code and output.

    Args:
        files: Path to text. These files override the tree.
        command: Program and arguments. `python` means the interpreter of the agent.
        seconds: Time limit. When it expires the command's process group is killed.
        place: Empty folder to work in.

    Returns:
        `exit_code` (negative for a signal; `None` after a timeout or if the command cannot be
        started) and `output`, the end of the command's output.
    """
    folder = Path(place) / "check"
    home = Path(place) / "home"
    folder.mkdir()
    home.mkdir()
    write_tree(with_hidden(tree, files), folder)
    environment = FIXED | {name: os.environ[name] for name in KEPT if name in os.environ}
    program = sys.executable if command[0] == "python" else command[0]
    try:
        process = subprocess.Popen(
            [program, *command[1:]],
            cwd=folder,
            env=environment | {"HOME": str(home), "TMPDIR": str(home)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        return {"exit_code": None, "output": f"{command[0]}: {error.strerror}"}
    said, in_time = _listen(process, time.monotonic() + seconds)
    output = said.decode("utf-8", "replace").replace(f"{folder}/", "")
    if not in_time:
        return {"exit_code": None, "output": f"{output}[not done after {seconds:g} s]"}
    return {"exit_code": process.returncode, "output": output}


def _listen(process: subprocess.Popen[bytes], deadline: float) -> tuple[bytes, bool]:
    """Return the end of a program's output and whether it ended in time; kill its group."""
    assert process.stdout
    kept = b""
    with process.stdout as stream, selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        while process.poll() is None and time.monotonic() < deadline:
            if selector.select(POLL_SECONDS):
                kept = (kept + _read(stream.fileno()))[-OUTPUT_BYTES:]
        in_time = process.poll() is not None
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        while (
            selector.select(0) and (more := _read(stream.fileno())) and time.monotonic() < deadline
        ):
            kept = (kept + more)[-OUTPUT_BYTES:]
    return kept, in_time


def _read(descriptor: int) -> bytes:
    data = os.read(descriptor, 1 << 16)
    if not data:
        time.sleep(POLL_SECONDS / 10)  # The command closed its output but is still running.
    return data
