"""Backend `bubblewrap`: boxes are local processes in Linux namespaces, without a container engine.

Visible and read-only: system programs, this Python and a copy of the app's files. No network, an
empty /tmp, limits on processes, files and memory per process, no further user namespaces
(bubblewrap 0.8 or later, not setuid); the box ends with its owner. Not covered: memory and CPU
limits of a whole box, kernel exploits. Sessions cannot have namespaces because bubblewrap covers
parts of /proc: for code written by a model use isolation `container`, one bubblewrap per episode.
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
from envgym.sandbox import App, Isolation
from envgym.sandbox.agent.fork.session_limits import AGENT_FILES
from envgym.sandbox.archive import pack
from envgym.sandbox.backends.local import ProcessTransport, clean_environment
from envgym.sandbox.box.checks import CAPABILITIES, random_user
from envgym.sandbox.box.sandbox import PooledSandbox
from envgym.sandbox.containers.owners import is_gone, owner
from envgym.sandbox.options import SandboxOptions

LEVELS: tuple[Isolation, ...] = ("state", "fork", "container")
WHY_NOT: dict[Isolation, str] = {
    "namespaces": "it covers parts of /proc, so a session cannot mount a private /proc"
}
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
AS_NOBODY = ("--cap-drop", "ALL", "--uid", "65534", "--gid", "65534")
WITHOUT_USERS = ("--unshare-pid", "--unshare-ipc", "--unshare-net", "--unshare-uts")


def probe() -> dict[str, object]:
    """Return the path of `bwrap`. Raises PrerequisiteError if there is none."""
    return {"name": "bubblewrap", "command": find_bubblewrap()}


def open(app: App, options: SandboxOptions) -> BubblewrapSandbox:
    """Return a sandbox of processes in namespaces."""
    return BubblewrapSandbox(app, options)


class BubblewrapSandbox(PooledSandbox):
    """Run an app in bubblewrap. Raises PrerequisiteError if there is no `bwrap`."""

    def __init__(self, app: App, options: SandboxOptions):
        self._command = find_bubblewrap()
        remove_orphans()
        self._files, self._root = unpack(app), app.root.resolve()
        shared = (
            "a fresh bubblewrap for each episode"
            if options.level == "container"
            else "sessions of one box share a user id"
        )
        limits = {
            "memory_mb": options.memory_mb,
            "processes": options.max_processes,
            "files": options.max_open_files + AGENT_FILES,
        }
        super().__init__(
            app,
            self._start_box,
            root=f"{HOME}/app",
            options=options,
            within="fork" if options.level == "container" else options.level,
            label=f"bubblewrap, isolation {options.level}: no network, read-only files; {shared}; "
            "no memory limit for a whole box",
            start_check=self._start_check_box,
            check_hello={
                "users": [random_user()],
                "place": "/tmp",
                "is_open": bool(options.accept_risk),
                "limits": limits,
            },
        )
        self._hello["limits"] = limits

    def close(self) -> None:
        super().close()
        if self._process == os.getpid():
            shutil.rmtree(self._files, ignore_errors=True)

    def _start_box(self) -> ProcessTransport:
        show = ["--ro-bind", self._files, HOME]
        return self._start_with([*_apart(self._command), *AS_NOBODY], show)

    def _start_check_box(self) -> ProcessTransport:
        """Start a box with the agent alone, in which root may change to the programs' user.

        Without root it is a user namespace in which programs get one of their own.
        """
        show = ["--ro-bind", f"{self._files}/agent", f"{HOME}/agent"]
        if _has_two_users(self._command):
            rights = [word for name in CAPABILITIES for word in ("--cap-add", f"CAP_{name}")]
            privileges = [*WITHOUT_USERS, "--cap-drop", "ALL", *rights, *_open_parents()]
            return self._start_with(privileges, show)
        return self._start_with(["--unshare-all", *AS_NOBODY], show)

    def _start_with(self, privileges: list[str], show: list[str]) -> ProcessTransport:
        size = str(self._options.tmpfs_mb * 2**20)
        command = [
            self._command,
            *privileges,
            "--die-with-parent",
            "--as-pid-1",
            "--new-session",
            "--hostname",
            "box",
            "--proc",
            "/proc",
            "--dev",
            "/dev",
            # If the owner is root, bubblewrap leaves /proc/sys writable.
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
            *show,
            "--remount-ro",
            "/dev",
            "--remount-ro",
            "/",
            "--chdir",
            "/tmp",  # /dev and / are writable by default, without a size limit.
            sys.executable,
            "-s",
            f"{HOME}/agent",
        ]
        environment = clean_environment() | {
            "HOME": "/tmp",
            "TMPDIR": "/tmp",
            "ENVGYM_SCRATCH": "/tmp",
        }
        # --die-with-parent refers to the starting thread, which must live as long as this process.
        return _starter(os.getpid()).submit(ProcessTransport, command, environment).result()


@functools.cache
def _starter(_pid: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix="envgym-bubblewrap")


def find_bubblewrap() -> str:
    """Return the path of `bwrap`. Raises PrerequisiteError."""
    if sys.platform != "linux":
        raise PrerequisiteError("bubblewrap exists on Linux only. Use sandbox.backend=docker")
    if command := shutil.which("bwrap"):
        return command
    raise PrerequisiteError(
        "no `bwrap` on this machine. Install the package bubblewrap, or use sandbox.backend=docker"
    )


@functools.cache
def _apart(command: str) -> tuple[str, ...]:
    """Return the arguments for all namespaces, without further ones if `bwrap` can forbid them."""
    said = subprocess.run([command, "--help"], capture_output=True, text=True, check=False)
    can = (
        "--disable-userns" in said.stdout + said.stderr
        and not os.stat(command).st_mode & stat.S_ISUID
    )
    return ("--unshare-all", *(("--unshare-user", "--disable-userns") if can else ()))


@functools.cache
def _has_two_users(command: str) -> bool:
    """Return whether root may enter namespaces without a user namespace, which has one user."""
    if os.geteuid() != 0:
        return False
    trial = [command, *WITHOUT_USERS, "--ro-bind", "/", "/", "true"]
    return subprocess.run(trial, capture_output=True, check=False).returncode == 0


def _open_parents() -> list[str]:
    """Return the arguments that create the folders above this Python, open to all users.

    Without them bubblewrap creates them for root alone.
    """
    parents = {
        parent
        for prefix in (sys.base_prefix, sys.prefix)
        for path in (Path(prefix), Path(os.path.realpath(prefix)))
        if not path.is_relative_to("/usr")
        for parent in list(path.parents)[:-1]
    }
    return [word for path in sorted(parents) for word in ("--perms", "0755", "--dir", str(path))]


def _system(*, cover: Path) -> list[str]:
    """Return the arguments that show the system's programs and this Python, read-only.

    Args:
        cover: Folder of the environment. Shown empty if it lies inside a visible folder, as in an
            installed package.
    """
    shown = []
    for path in map(Path, SYSTEM):
        if path.is_symlink():
            shown += ["--symlink", os.readlink(path), str(path)]
        elif path.exists():
            shown += ["--ro-bind", str(path), str(path)]
    pythons = dict.fromkeys(os.path.realpath(prefix) for prefix in (sys.base_prefix, sys.prefix))
    # Bind both the link and its target.
    pythons |= dict.fromkeys((sys.base_prefix, sys.prefix))
    shown += [
        word
        for path in pythons
        if not path.startswith("/usr/")
        for word in ("--ro-bind", path, path)
    ]
    visible = [Path(path) for path in ("/usr", *pythons)]
    # Cover every name of the folder: a bound link and its bound target are two places in the box.
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
    """Copy the agent and the app's files into a folder with the owner's label in its name."""
    folder = tempfile.mkdtemp(prefix=f"{FOLDER}{owner()}-")
    with tarfile.open(fileobj=io.BytesIO(pack(app))) as archive:
        archive.extractall(folder, filter="data")
    return folder


def remove_orphans() -> None:
    """Remove the copies of processes that have ended."""
    for folder in Path(tempfile.gettempdir()).glob(f"{FOLDER}*"):
        if is_gone(folder.name.removeprefix(FOLDER).rpartition("-")[0], engine_is_local=True):
            shutil.rmtree(folder, ignore_errors=True)
