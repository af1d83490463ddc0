"""Backend `docker` and `podman`: one long-lived container per box, used over its attached stdio.

A container has no network by default, a read-only file system except /tmp and /dev/shm, no
capabilities, an unprivileged user, limits on memory, CPU, processes and output. It ends with its
owner even if the owner is killed: stdin closes, the agent ends, the engine removes the container.
Files are copied in (`parcel.py`), not mounted. Not covered: kernel exploits; with isolation `fork`,
sessions of one box that attack each other, because they share a user id. `docker exec` is not used:
it takes 100 ms, a line over stdio 0.25 ms.
"""

from __future__ import annotations

import contextlib
import json
import resource
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from envgym.errors import WorldFailure
from envgym.sandbox import App, Isolation
from envgym.sandbox.archive import pack
from envgym.sandbox.box.channel import FIXED_VARIABLES, Tail
from envgym.sandbox.box.sandbox import PooledSandbox
from envgym.sandbox.containers.addresses import EngineName, short
from envgym.sandbox.containers.engine import (
    check_network,
    check_runtime,
    connect,
    find_engine,
    is_podman,
    refused_runtime,
)
from envgym.sandbox.containers.images import image_of
from envgym.sandbox.containers.owners import labels, reap_quietly
from envgym.sandbox.options import SandboxOptions

HOME = "/envgym"
"""Private volume of the container with `agent/` and `app/`. Only root may write to it."""
NOBODY = "65534:65534"
MOST_PROCESSES = 2**15
"""Process limit of all podman boxes together, which share a user id. Podman's service lowers its
own limit to this number.
"""
STDOUT = 1
SECCOMP = Path(__file__).parent / "seccomp.json"
"""Seccomp profile for boxes with namespaces: the usual system calls plus those that create
namespaces.
"""
SAID: dict[Isolation, str] = {
    "state": "sessions of one box share a process",
    "fork": "sessions of one box share a user id",
    "namespaces": "sessions of one box share only its kernel and its memory limit",
    "container": "a fresh container for each episode, in namespaces if the engine permits it",
}
"""Resources that sessions share at each level, for the label."""


class DockerSandbox(PooledSandbox):
    """Run an app in containers.

    Raises:
        PrerequisiteError: If there is no engine or no image.
        SpecError: If files of the app cannot be packed.
    """

    def __init__(self, app: App, options: SandboxOptions):
        self._engine_name: EngineName = "podman" if options.backend == "podman" else "docker"
        engine = find_engine(self._engine_name)
        self._api = engine.api
        try:
            check_network(self._api, options.network)
            check_runtime(self._api, options.runtime)
            image = image_of(self._api, options, root=app.root)
        except BaseException:
            self._api.close()
            raise
        self._parcel = pack(app)
        self._image = image
        network = (
            "no network"
            if options.network == "none"
            else f"the network '{options.network}' is open"
        )
        runtime = f", runtime {options.runtime}" if options.runtime else ""
        super().__init__(
            app,
            self._start_container,
            root=f"{HOME}/app",
            options=options,
            within="namespaces" if needs_namespaces(options) else options.level,
            label=f"{engine.name} ({image}{runtime}), isolation {options.level}: {network}, "
            f"read-only files; {SAID[options.level]}",
        )
        reap_quietly(self._api)

    def _after_fork(self) -> None:
        # Two processes must not share one pooled connection.
        self._api = connect(self._engine_name)

    def close(self) -> None:
        super().close()
        reap_quietly(self._api)
        self._api.close()

    def _start_container(self) -> DockerTransport:
        import docker.errors
        import requests

        try:
            return DockerTransport(
                self._api, create(self._api, self._image, self._options), self._parcel
            )
        except (docker.errors.DockerException, requests.RequestException, OSError) as error:
            hint = "`envgym sandbox doctor` shows what can run here"
            raise WorldFailure(
                "sandbox_lost",
                f"the engine could not start a container: {error}. {hint}",
                stage="open",
            ) from None


def needs_namespaces(options: SandboxOptions) -> bool:
    """Return whether sessions use namespaces inside the container.

    With isolation `container` that is a second barrier.
    """
    return options.level in ("namespaces", "container")


def create(api: Any, image: str, options: SandboxOptions) -> str:
    """Create a hardened container without starting it, and return its id.

    Raises:
        PrerequisiteError: If the engine refuses `options.runtime`.
        docker.errors.APIError: If the engine refuses for another reason.
    """
    import docker.errors
    from docker.types import LogConfig, Mount

    podman = is_podman(api)
    # Podman makes the container's user the owner of a volume, so that it could replace these files.
    # Mounted read-only it can still be filled from outside before the start. Docker makes root the
    # owner, and cannot fill a read-only volume.
    home = Mount(HOME, None, type="volume", no_copy=True, read_only=podman)
    limits = api.create_host_config(
        auto_remove=True,
        network_mode=options.network,
        runtime=options.runtime,
        read_only=True,
        tmpfs={"/tmp": f"size={options.tmpfs_mb}m,mode=1777,nosuid,nodev,noexec"},
        mounts=[home],
        cap_drop=["ALL"],
        security_opt=[
            "no-new-privileges:true",
            *(_for_namespaces(api) if needs_namespaces(options) else []),
        ],
        shm_size=f"{options.tmpfs_mb}m",
        pids_limit=options.pids,
        mem_limit=f"{options.memory_mb}m",
        memswap_limit=f"{options.memory_mb}m",  # Equal to the memory limit: no swap.
        nano_cpus=int(options.cpus * 1e9),
        ulimits=_ulimits(options, podman=podman),
        # Output of tools would fill the engine's disk; attached streams do not need a log.
        log_config=LogConfig(type="none"),
    )
    if needs_namespaces(options):
        # The kernel refuses to mount a new /proc while parts of the visible one are masked. The
        # unmasked parts are accessible to root only, and the box has no root.
        limits |= {"MaskedPaths": [], "ReadonlyPaths": []}
    try:
        # With detach=False the low-level call sets StdinOnce: if our end of stdin closes, so does
        # the agent's.
        return api.create_container(
            image,
            entrypoint=["python", "-s", f"{HOME}/agent"],
            command=[],
            user=NOBODY,
            working_dir="/tmp",
            stdin_open=True,
            detach=False,
            tty=False,
            hostname="box",
            labels=labels(),
            host_config=limits,
            environment=FIXED_VARIABLES | {"HOME": "/tmp", "ENVGYM_SCRATCH": "/tmp"},
        )["Id"]
    except docker.errors.APIError as error:
        if options.runtime and "runtime" in str(error).lower():
            raise refused_runtime(api, options.runtime, short(error)) from None
        raise


def _for_namespaces(api: Any) -> list[str]:
    """Return security options that allow namespaces: our seccomp profile, and no AppArmor.

    The engine's own profiles forbid to create namespaces or to mount.
    """
    profile = json.dumps(json.loads(SECCOMP.read_text(encoding="utf-8")), separators=(",", ":"))
    has_apparmor = any(
        "name=apparmor" in option for option in api.info().get("SecurityOptions") or ()
    )
    return [f"seccomp={profile}", *(["apparmor=unconfined"] if has_apparmor else [])]


def _ulimits(options: SandboxOptions, *, podman: bool) -> list[Any]:
    from docker.types import Ulimit

    limits = {"nofile": options.nofile, "core": 0}
    if podman:
        # Podman's default of a million is refused if the service may not raise limits.
        most = resource.getrlimit(resource.RLIMIT_NPROC)[1]
        limits["nproc"] = (
            MOST_PROCESSES if most == resource.RLIM_INFINITY else min(most, MOST_PROCESSES)
        )
    return [Ulimit(name=name, soft=limit, hard=limit) for name, limit in limits.items()]


class DockerTransport:
    """Agent as process 1 of a container, with its attached streams in one socket.

    The engine frames its output: 1 byte stream number, 3 bytes padding, 4 bytes length (big
    endian), then the data. Stream 1 carries the protocol.

    References:
        Docker Engine API, "Attach to a container", stream format.
    """

    def __init__(self, api: Any, container: str, files: bytes):
        self._api = api
        self.container = container
        self._tail, self._data, self._ending = Tail(), b"", threading.Lock()
        self._stream: Any = None
        self._killed = False
        try:
            api.put_archive(container, HOME, files)
            streams = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
            # Keep the stream: the connection closes when it is collected.
            self._stream = api.attach_socket(container, params=streams)
            self._socket: socket.socket = getattr(self._stream, "_sock", self._stream)
            self._socket.settimeout(None)
            api.start(container)
        except BaseException:
            self._remove()
            raise

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def receive(self) -> bytes:
        while header := self._exactly(8):
            payload = self._exactly(int.from_bytes(header[4:], "big"))
            if header[0] == STDOUT:
                return payload
            self._tail.add(payload)
        self._hang_up()
        return b""

    def _hang_up(self) -> None:
        """Close our end from the reading thread. Stream, socket and response hold each other."""
        for part in (self._stream, self._socket, getattr(self._stream, "_response", None)):
            # ValueError: already closed with the previous one.
            with contextlib.suppress(OSError, AttributeError, ValueError):
                part.close()  # type: ignore[union-attr]

    def _exactly(self, size: int) -> bytes:
        """Return the next `size` bytes, or b"" if the stream ends first."""
        while len(self._data) < size:
            try:
                more = self._socket.recv(1 << 18)
            except OSError:  # Shut down by `kill`, or reset because the engine ended.
                more = b""
            if not more:
                return b""
            self._data += more
        taken = self._data[:size]
        self._data = self._data[size:]
        return taken

    def last_words(self) -> str:
        return self._tail.text()

    def kill(self) -> None:
        with contextlib.suppress(OSError):
            # The agent detects the end of stdin and ends all sessions.
            self._socket.shutdown(socket.SHUT_RDWR)
        with self._ending:
            # A request after the client was closed would open a connection that is never closed.
            if self._killed:
                return
            self._killed = True
            # Needed if the agent hangs in a tool (isolation `state`) or the engine has not noticed
            # the end yet.
            self._quietly(lambda: self._api.kill(self.container))

    def _remove(self) -> None:
        self._quietly(lambda: self._api.remove_container(self.container, force=True, v=True))

    def _quietly(self, work: Callable[[], Any]) -> None:
        import docker.errors
        import requests

        with contextlib.suppress(docker.errors.DockerException, requests.RequestException, OSError):
            work()
