"""Runs a task's hidden test command on the final tree, in a folder that the episode never saw.

What calls this is a process that was started after the session's own had ended, so nothing that the model started can touch
it. The command runs without a shell, with a clean environment and in a process group of its own, which ends with it.

Not covered: code of the model that the test itself runs. Have the test run it as a program and look at what it prints, never
import it, and have the test delete its own file first.
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
"""The end of the command's output that is kept."""
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
    """What a command says about a tree with hidden files put into it.

    Args:
        files: path -> text; they win over what the tree holds.
        command: program and arguments; `python` means the interpreter of the agent.
        seconds: the command's deadline, after which it is killed with all of its group.
        place: an empty folder.
    Returns: `exit_code` (negative for a signal; None for a command past its deadline, or one that cannot be started) and
        `output`, the end of what it printed.
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
    """The end of what a program says until it ends, and whether that was in time; then ends its group."""
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
        time.sleep(POLL_SECONDS / 10)  # it closed its output and is still at work
    return data
