"""Shell tool: one command at a time in the work folder; all its processes end with it.

Not supported: a process that leaves its process group. The sandbox ends it with the session.
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

SECONDS = 8.0
"""Time limit of a command in seconds. It is below the environment's `episode.tool_timeout_seconds`,
which would void the episode."""
SHOWN_BYTES = 16 * 1024
MOST_BYTES = 1024 * 1024
"""Maximum output in bytes; a command that prints more is stopped."""
POLL_SECONDS = 0.02


def run(folder: Path, command: str) -> str:
    """Run a shell command in the work folder; shows what it prints and its exit code.

    Args:
        command: for sh; nothing goes on in the background afterwards.
    """
    try:
        process = subprocess.Popen(
            ["/bin/sh", "-c", command],
            cwd=folder,
            env=_environment(folder),
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
    except OSError as error:
        raise ValueError(f"cannot be started: {error.strerror}") from None
    said, size, in_time = _listen(process, time.monotonic() + SECONDS)
    # The path of the folder differs between episodes, so it is removed from the output.
    text = said.decode("utf-8", "replace")
    for place in (os.path.realpath(folder), str(folder)):
        text = text.replace(f"{place}/", "").replace(place, ".")
    if size > len(said):
        text += (
            f"\n[output cut: the first {len(said):,} of "
            f"{'more than ' if size > MOST_BYTES else ''}{size:,} bytes are shown]"
        )
    text += "" if not text or text.endswith("\n") else "\n"
    if size > MOST_BYTES:
        raise ValueError(f"{text}stopped: printed more than {MOST_BYTES:,} bytes")
    if not in_time:
        raise ValueError(f"{text}stopped: not done after {SECONDS:g} s")
    return f"{text}exit code {process.returncode}"


def _environment(folder: Path) -> dict[str, str]:
    """Return a clean environment; home and temporary files are outside of the work folder."""
    python = os.path.dirname(sys.executable)
    path = os.environ.get("PATH", os.defpath)
    home = str(folder.parent)
    fixed = {
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    return fixed | {"PATH": f"{python}{os.pathsep}{path}", "HOME": home, "TMPDIR": home}


def _listen(process: subprocess.Popen[bytes], deadline: float) -> tuple[bytes, int, bool]:
    """Read the output until the command ends or a limit is reached, then kill its process group.

    Returns:
        The first `SHOWN_BYTES` bytes, the size of the output, and whether the command ended in
        time.
    """
    assert process.stdout
    kept = b""
    size = 0
    with process.stdout as stream, selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        ended = False
        while size <= MOST_BYTES and time.monotonic() < deadline:
            data = (
                os.read(stream.fileno(), 1 << 16)
                if selector.select(0 if ended else POLL_SECONDS)
                else None
            )
            kept = kept + (data or b"")[: SHOWN_BYTES - len(kept)]
            size = size + len(data or b"")
            if data == b"":
                break  # all writers have closed the pipe
            if ended and data is None:
                break  # the command has ended, but a child process keeps the pipe open
            ended = process.poll() is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, deadline - time.monotonic()) if size <= MOST_BYTES else 0)
        in_time = process.poll() is not None
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return kept, size, in_time
