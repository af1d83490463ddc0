"""Isolate a local box as far as the kernel permits, once, before any code of the app is loaded.

The box gets a PID namespace with a /proc of its own, so that it can neither see nor read the
caller, a /dev/shm of its own, and a mount namespace. In it the environment's folder holds only the
files that boxes get, and well-known places of secrets are empty. Root does this by real namespaces
and then gives up its capabilities; other users need unprivileged user namespaces. Not isolated:
the user's other files and the network. `python path/to/agent --why-not-isolated` prints the reason.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from . import linux

SECRETS = (
    ".ssh",
    ".aws",
    ".azure",
    ".gnupg",
    ".kube",
    ".docker",
    ".netrc",
    ".pypirc",
    ".git-credentials",
    ".config/gcloud",
    ".config/gh",
    ".huggingface",
    ".cache/huggingface/token",
)
"""Places of secrets in the home folder. They are empty in a local box."""
SYSTEM_SECRETS = ("/etc/shadow", "/etc/gshadow", "/run/docker.sock", "/run/podman")
TEMPORARY = ("/tmp", "/var/tmp", "/dev/shm")
ONLY_PACKAGES = ("node_modules",)
"""Folders of an environment that hold installed packages; they stay visible."""


@dataclass(frozen=True)
class PrivateBox:
    """Files and privileges of a local box."""

    root: str
    """Folder of the environment. Only `files` of it, this Python and its packages stay visible."""
    files: Sequence[str]
    """Paths relative to `root`."""
    keep: Sequence[str] = ()
    """Further places that stay visible, such as the box's own folder."""
    tmpfs_mb: int | None = None
    """Size of an empty /tmp in MiB. None keeps the machine's /tmp."""
    network: bool = True
    capabilities: Sequence[str] = ()
    """Capabilities that root keeps."""


def isolate(box: PrivateBox) -> None:
    """Enter the namespaces and return in a grandchild, which is process 1 of the box.

    Raises:
        OSError: If the kernel refuses a step; the message names it.
    """
    contents = {path: Path(box.root, path).read_bytes() for path in box.files}
    is_root = enter_namespaces(network=box.network)
    _cover_files(box, contents)
    if pid := os.fork():
        _stay_behind(pid)
    linux.prctl(linux.SET_DEATH_SIGNAL, signal.SIGKILL)
    linux.mount_proc()
    _number_processes_apart()
    linux.give_up_capabilities(box.capabilities if is_root else ())


def _number_processes_apart() -> None:
    """Start with process ids that hardly any process of the machine has.

    A number that a tool shows then names no process outside of the box, which could be signalled by
    mistake. Source: proc(5), /proc/sys/kernel/ns_last_pid.
    """
    with contextlib.suppress(OSError, ValueError):
        most = int(Path("/proc/sys/kernel/pid_max").read_text())
        last = most // 2 + secrets.randbelow(most // 4)
        linux.write("/proc/sys/kernel/ns_last_pid", str(last))


def enter_namespaces(*, network: bool) -> bool:
    """Enter new namespaces. Return True for root's, False for those of a new user namespace."""
    more = 0 if network else linux.NEW_NETWORK
    is_root = os.geteuid() == 0
    if is_root:
        try:
            linux.unshare(more, users=False)
        except PermissionError:  # root of a container
            is_root = False
    if not is_root:
        linux.unshare(more, users=True)
    linux.make_private()
    if not network:
        linux.raise_loopback()
    return is_root


def _cover_files(box: PrivateBox, contents: dict[str, bytes]) -> None:
    keep = [*_pythons(), *box.keep, *_packages(box.root)]
    for folder in _closed_parents(keep) if box.capabilities and os.geteuid() == 0 else ():
        linux.cover(folder, [*keep, box.root])  # Programs of another user must reach this Python.
    if os.path.realpath(box.root) != "/":
        linux.cover(box.root, keep, files=contents)
    home = os.environ.get("HOME", "/nonexistent")
    for place in (*SYSTEM_SECRETS, *(os.path.join(home, name) for name in SECRETS)):
        if os.path.isdir(place) and not any(path.startswith(place) for path in keep):
            linux.cover(place, options="size=4k,mode=755")
        elif os.path.exists(place) and not os.path.isdir(place):
            linux.bind("/dev/null", place)
    size = box.tmpfs_mb
    if size is None:
        linux.mount_tmpfs("/dev/shm", "mode=1777")
        return
    for folder in TEMPORARY:
        if os.path.isdir(folder) and not os.path.islink(folder):
            linux.cover(folder, [*keep, box.root], options=f"size={size}m,mode=1777")


def _pythons() -> list[str]:
    """Return the folders of this interpreter, of its packages and of the agent."""
    return [
        os.path.abspath(place)
        for place in (
            sys.prefix,
            sys.base_prefix,
            os.path.realpath(sys.prefix),
            os.path.realpath(sys.base_prefix),
            *filter(None, sys.path),
            str(Path(__file__).parent),
        )
        if os.path.abspath(place) not in ("/", "/usr")
    ]


def _packages(root: str) -> list[str]:
    """Return the virtual environments and folders of packages directly below a folder."""
    try:
        found = sorted(Path(root).iterdir())
    except OSError:
        return []
    return [
        str(place)
        for place in found
        if place.name in ONLY_PACKAGES or (place / "pyvenv.cfg").is_file()
    ]


def _closed_parents(places: Sequence[str]) -> list[str]:
    """Return the outermost folders above the places that other users may not enter."""
    closed = set[str]()
    for place in places:
        for parent in reversed(Path(place).parents):
            if parent.is_dir() and not parent.stat().st_mode & 0o001:
                closed.add(str(parent))
                break
    return sorted(closed)


def _stay_behind(pid: int) -> None:
    """Wait for the box, without its streams, and end as it does."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    os.closerange(3, 1 << 10)
    linux.end_like(pid)


def why_not() -> str:
    """Return the reason why this machine cannot isolate a local box, or an empty string."""
    try:
        enter_namespaces(network=False)
        linux.mount_tmpfs("/dev/shm", "mode=1777")
        if pid := os.fork():
            return "" if os.waitpid(pid, 0)[1] == 0 else "a private /proc is refused"
    except OSError as error:
        return str(error)
    try:
        linux.mount_proc()
        linux.give_up_capabilities()
    except OSError:
        os._exit(1)
    os._exit(0)
