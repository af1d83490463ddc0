"""Boxes that are local processes inside bubblewrap: a wall of namespaces without a container engine, on Linux.

Covered: only the system's programs, this Python and a copy of the app's files can be seen, all read-only; no network; an empty
/tmp; processes, files and memory of each process limited; no namespaces of a session's own, in which it would be root (bubblewrap
0.8 or later, not installed setuid); an end together with the owner.
Not covered: memory and processors of a box as a whole (no control group), a hostile kernel exploit. A session cannot have
namespaces of its own, as bubblewrap covers parts of /proc: for code that a model wrote take isolation `container`, a fresh
bubblewrap for each episode.
Source: bwrap(1), https://github.com/containers/bubblewrap.
"""

from __future__ import annotations

import functools
import io
import os
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from envgym.errors import PrerequisiteError
from envgym.sandbox import App
from envgym.sandbox.archive import pack
from envgym.sandbox.backends.local import ProcessTransport, clean_environment
from envgym.sandbox.box.sandbox import BoxSandbox
from envgym.sandbox.containers.owners import is_gone, owner
from envgym.sandbox.options import SandboxOptions

HOME = "/envgym"
SYSTEM = (
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/etc/ld.so.cache",
    "/etc/alternatives",
    "/etc/ssl/certs",
)
FOLDER = "envgym-app-"


class BubblewrapSandbox(BoxSandbox):
    """Runs an app in bubblewrap. Raises PrerequisiteError where there is no `bwrap`."""

    def __init__(self, app: App, options: SandboxOptions):
        self._command = find_bubblewrap()
        remove_orphans()
        self._files, self._root = unpack(app), app.root.resolve()
        shared = (
            "a fresh one for each episode"
            if options.level == "container"
            else "sessions of one box share a user id"
        )
        super().__init__(
            app,
            self._start_box,
            root=f"{HOME}/app",
            options=options,
            within="fork" if options.level == "container" else options.level,
            label=f"bubblewrap, isolation {options.level}: no network, read-only files; {shared}; no memory limit for a whole box",
        )
        self._hello["limits"] = {
            "memory_mb": options.memory_mb,
            "processes": options.pids,
            "files": options.nofile,
        }

    def close(self) -> None:
        super().close()
        if self._process == os.getpid():
            shutil.rmtree(self._files, ignore_errors=True)

    def _start_box(self) -> ProcessTransport:
        size = str(self._options.tmpfs_mb * 2**20)
        command = [
            self._command,
            "--unshare-all",
            *_no_further_namespaces(self._command),
            "--die-with-parent",
            "--as-pid-1",
            "--new-session",
            "--cap-drop",
            "ALL",
            "--uid",
            "65534",
            "--gid",
            "65534",
            "--hostname",
            "box",
            "--proc",
            "/proc",
            "--dev",
            "/dev",
            # Of an owner who is root, bubblewrap leaves the machine's own settings open for writing.
            "--ro-bind",
            "/proc/sys",
            "/proc/sys",
            "--perms",
            "1777",
            "--size",
            size,
            "--tmpfs",
            "/tmp",
            "--perms",
            "1777",
            "--size",
            size,
            "--tmpfs",
            "/dev/shm",
            *_system(cover=self._root),
            "--ro-bind",
            self._files,
            HOME,
            "--remount-ro",
            "/dev",
            "--remount-ro",
            "/",
            "--chdir",
            "/tmp",  # both would take files without a limit
            sys.executable,
            "-s",
            f"{HOME}/agent",
        ]
        environment = clean_environment() | {
            "HOME": "/tmp",
            "TMPDIR": "/tmp",
            "ENVGYM_SCRATCH": "/tmp",
        }
        # "Parent" in --die-with-parent is the thread that starts it: one that lives as long as this process.
        return _starter(os.getpid()).submit(ProcessTransport, command, environment).result()


@functools.cache
def _starter(_pid: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix="envgym-bubblewrap")


def find_bubblewrap() -> str:
    """Path of `bwrap`. Raises PrerequisiteError."""
    if sys.platform != "linux":
        raise PrerequisiteError("bubblewrap exists on Linux only. Take sandbox.backend=docker")
    if command := shutil.which("bwrap"):
        return command
    raise PrerequisiteError(
        "no `bwrap` on this machine. Install the package bubblewrap, or take sandbox.backend=docker"
    )


@functools.cache
def _no_further_namespaces(command: str) -> tuple[str, ...]:
    """Arguments that keep a session from namespaces of its own, as far as this bubblewrap has them."""
    said = subprocess.run([command, "--help"], capture_output=True, text=True, check=False)
    can = (
        "--disable-userns" in said.stdout + said.stderr
        and not os.stat(command).st_mode & stat.S_ISUID
    )
    return ("--unshare-user", "--disable-userns") if can else ()


def _system(*, cover: Path) -> list[str]:
    """Arguments that show the system's programs and this Python, read-only.

    Args:
        cover: the environment's own folder; shown empty where it lies among them, as in an installed package.
    """
    shown = []
    for path in map(Path, SYSTEM):
        if path.is_symlink():
            shown += ["--symlink", os.readlink(path), str(path)]
        elif path.exists():
            shown += ["--ro-bind", str(path), str(path)]
    pythons = dict.fromkeys(os.path.realpath(prefix) for prefix in (sys.base_prefix, sys.prefix))
    pythons |= dict.fromkeys(
        (sys.base_prefix, sys.prefix)
    )  # both the way that leads there and the place itself
    shown += [
        word
        for path in pythons
        if not path.startswith("/usr/")
        for word in ("--ro-bind", path, path)
    ]
    visible = [Path(path) for path in ("/usr", *pythons)]
    # By every name that leads there: a binding of a folder and one of what it links to are two places in the box.
    names = {
        cover,
        *(
            path / cover.relative_to(path.resolve())
            for path in visible
            if cover.is_relative_to(path.resolve())
        ),
    }
    covered = [
        name
        for name in names
        if any(name != path and name.is_relative_to(path) for path in visible)
    ]
    return shown + [
        word
        for name in sorted(covered)
        for word in ("--tmpfs", str(name), "--remount-ro", str(name))
    ]


def unpack(app: App) -> str:
    """A copy of the agent and of the app's files, in a folder that names its owner."""
    folder = tempfile.mkdtemp(prefix=f"{FOLDER}{owner()}-")
    with tarfile.open(fileobj=io.BytesIO(pack(app))) as archive:
        archive.extractall(folder, filter="data")
    return folder


def remove_orphans() -> None:
    """Removes the copies of owners that were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{FOLDER}*"):
        if is_gone(folder.name.removeprefix(FOLDER).rpartition("-")[0], engine_is_local=True):
            shutil.rmtree(folder, ignore_errors=True)
