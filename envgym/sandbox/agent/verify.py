"""Check box: run one hidden test on the final files of a session, in a box that served no session.

Two users share the box: the test, which is trusted, and the programs that it starts, which are the
model's code. The test's files lie in a folder that programs cannot read; `hidden_test/` executes
them, so nothing of the work folder is imported. Programs run under another user id if the box may
change it, otherwise in a user namespace below the test's. The test's exit code decides. The box
ends after the test.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import linux
from .file_tree import Tree, from_plain, with_hidden, write_tree
from .hidden_test.command import TestCommand, read_test_command
from .hidden_test.files import FOLDER
from .hidden_test.programs import enter_program, kill_user
from .hidden_test.settings import Separation, TestSettings
from .protocol import Request, Wire, attempt

OUTPUT_BYTES = 8192
"""Bytes kept from the end of the command's output."""
POLL_SECONDS = 0.05
TRIAL_SECONDS = 10.0
RUNNER = Path(__file__).parent / "hidden_test"
FIXED = {
    "LANG": "C.UTF-8",
    "TZ": "UTC",
    "PYTHONHASHSEED": "0",
    "PYTHONUTF8": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
}
KEPT = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")


@dataclass(frozen=True)
class CheckBox:
    """Folders of a check box, and how it keeps programs from the test."""

    place: Path
    separation: Separation
    user: int = 0

    @property
    def work(self) -> Path:
        return self.place / "check"

    @property
    def home(self) -> Path:
        return self.place / "home"

    def environment(self) -> dict[str, str]:
        """Return the environment of programs."""
        kept = {name: os.environ[name] for name in KEPT if name in os.environ}
        path = os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", os.defpath)])
        return FIXED | kept | {"PATH": path, "HOME": str(self.home), "TMPDIR": str(self.home)}


def serve_check(wire: Wire, hello: dict[str, Any], lines: list[bytes]) -> None:
    """Prepare the box, report that it is ready, and run one test.

    Args:
        hello: `users` (user ids for the programs, the first possible one is taken), `is_open`
            (programs need not be kept from the test), and `place`, an empty folder; None for a
            temporary one.
        lines: Lines that have already been received.
    """
    place = Path(hello["place"] or tempfile.mkdtemp(prefix="envgym-"))
    try:
        try:
            box = _prepare(place, hello["users"], is_open=hello["is_open"])
        except OSError as error:
            wire.say({"id": 0, "error": {"kind": "check_refused", "message": str(error)}})
            return
        wire.say({"id": 0, "result": []})
        more: list[bytes] | None = lines
        while not lines and more is not None:
            more = wire.lines()
            lines = lines + (more or [])
        if lines:
            request = json.loads(lines[0])
            wire.say(attempt(request, lambda: _verify(request, box)))
            wire.lines()  # The host ends the box, and with it all processes.
    finally:
        if not hello["place"]:
            shutil.rmtree(place, ignore_errors=True)


def _prepare(place: Path, users: Sequence[int], *, is_open: bool) -> CheckBox:
    """Return the box with the strongest separation that works here.

    Raises:
        OSError: If programs cannot be kept from the test; the message has the reasons.
    """
    box = CheckBox(place, "none")
    os.chmod(place, 0o1777)
    if os.geteuid() == 0:
        with contextlib.suppress(OSError):  # Programs must not inherit any.
            linux.give_up_capabilities(linux.CAPABILITIES)
    box.work.mkdir()
    box.home.mkdir()
    reasons = []
    for user in users if os.geteuid() == 0 else ():
        problem = _try(CheckBox(place, "users", user))
        if not problem:
            return CheckBox(place, "users", user)
        reasons.append(f"programs as user {user}: {problem}")
    problem = _try(CheckBox(place, "namespaces"))
    if not problem:
        return CheckBox(place, "namespaces")
    reasons.append(f"programs in a user namespace: {problem}")
    if is_open:
        return box
    raise OSError("; ".join(reasons))


def _try(box: CheckBox) -> str:
    """Run an empty Python program as the programs of a test, and return what prevents it."""
    command = [sys.executable, "-I", "-S", "-c", "pass"]
    try:
        done = subprocess.run(
            command,
            cwd=box.work,
            env=box.environment(),
            capture_output=True,
            timeout=TRIAL_SECONDS,
            check=False,
            **_apart(box),
        )
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    said = done.stderr.decode("utf-8", "replace").strip()
    return "" if done.returncode == 0 else said[-300:] or f"exit code {done.returncode}"


def _apart(box: CheckBox) -> dict[str, Any]:
    """Return the options of `Popen` that run a command as the programs of the test."""
    if box.separation == "users":
        return {"user": box.user, "group": box.user, "extra_groups": []}
    if box.separation == "namespaces":
        settings = _settings(box, TestCommand("program"), [], str(box.place / "nothing"))
        return {"preexec_fn": _explained(lambda: enter_program(settings))}
    return {}


def _explained(enter: Callable[[], None]) -> Callable[[], None]:
    """Return a function for `preexec_fn` that prints an error, which `Popen` would hide."""

    def run() -> None:
        try:
            enter()
        except OSError as error:
            os.write(2, str(error).encode())
            os._exit(1)

    return run


def _verify(request: Request, box: CheckBox) -> dict[str, Any]:
    """Run the command of a request. See `envgym.sandbox.Session.verify`.

    Returns:
        `exit_code` (negative for a signal; `None` after a timeout or if the command cannot be
        started) and `output`, the end of the command's output.
    """
    hidden: dict[str, str] = request["files"]
    command = read_test_command(request["command"], hidden)
    tree = with_hidden(from_plain(request["tree"]), request["inputs"])
    _lay_out(_without(tree, hidden), box)
    private = Path(tempfile.mkdtemp(prefix="test-", dir=box.place))
    write_tree(with_hidden({}, hidden), _made(private / FOLDER))
    environment = box.environment()
    options = _apart(box)
    words = list(command.arguments)
    if command.kind == "program":
        words = [sys.executable if words[0] in ("python", "python3") else words[0], *words[1:]]
    else:
        _settings(box, command, list(hidden), str(private)).save(private / "settings.json")
        words = [sys.executable, *command.flags, "-P", "-s", str(RUNNER), "settings.json"]
        own = str(_made(private / "home"))
        environment |= {"HOME": own, "TMPDIR": own}
        options = {}
    cwd = box.work if command.kind == "program" else private
    return _run(words, request["command"][0], cwd, environment, options, request["seconds"], box)


def _settings(
    box: CheckBox, command: TestCommand, hidden: Sequence[str], private: str
) -> TestSettings:
    return TestSettings(
        command.kind,
        command.target,
        list(command.arguments),
        list(hidden),
        private,
        str(box.work),
        str(box.home),
        str(box.place),
        box.separation,
        box.user,
        box.environment(),
        not any(flag.startswith("-") and set("IP") & set(flag) for flag in command.flags),
    )


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _without(tree: Tree, hidden: dict[str, str]) -> Tree:
    """Return a tree without the entries at the paths of hidden files."""
    return {
        path: entry
        for path, entry in tree.items()
        if not any(path == name or path.startswith(f"{name}/") for name in hidden)
    }


def _lay_out(tree: Tree, box: CheckBox) -> None:
    """Write the tree into the work folder, as files of the programs' user."""
    write_tree(tree, box.work)
    if box.separation == "users":
        os.chown(box.home, box.user, box.user)
        os.chown(box.work, box.user, box.user)
        for path, entry in tree.items():
            if entry.kind != "special":
                os.chown(box.work / path, box.user, box.user, follow_symlinks=False)


def _run(
    words: list[str],
    name: str,
    cwd: Path,
    environment: dict[str, str],
    options: dict[str, Any],
    seconds: float,
    box: CheckBox,
) -> dict[str, Any]:
    try:
        process = subprocess.Popen(
            words,
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            **options,
        )
    except (OSError, subprocess.SubprocessError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        return {"exit_code": None, "output": f"{name}: {reason}"}
    said, in_time = _listen(process, time.monotonic() + seconds)
    if box.separation == "users":
        kill_user(box.user)
    output = said.decode("utf-8", "replace").replace(f"{box.work}/", "")
    if not in_time:
        return {"exit_code": None, "output": f"{output}[not done after {seconds:g} s]"}
    return {"exit_code": process.returncode, "output": output}


def _listen(process: subprocess.Popen[Any], deadline: float) -> tuple[bytes, bool]:
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
