"""Boxes that are containers of Docker or podman: one long-lived container, many sessions, spoken to over its attached stdio.

Covered: no network unless one is named, a read-only file system but for a small /tmp and /dev/shm, no capabilities, a user
without rights, limits on memory, processors, processes and output, and an end together with the owner even when that is killed:
the engine closes stdin, the agent ends, the engine removes the container. Files come as a copy (`parcel.py`), not as a mount of
a host's folder.
Not covered: a hostile kernel exploit; with isolation `fork`, sessions of one box that attack each other, as they share a user
id. `docker exec` is never used: it costs 100 ms where a line over stdio costs a quarter of one.
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
from envgym.sandbox.box.sandbox import BoxSandbox
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
"""A volume of the container's own, which only root may write: `agent/` and `app/`."""
NOBODY = "65534:65534"
MOST_PROCESSES = 2**15
"""For all boxes of podman together, as they share a user id; podman's service lowers its own limit to this number."""
STDOUT = 1
SECCOMP = Path(__file__).parent / "seccomp.json"
"""The system calls that a box with namespaces may make: those of ordinary programs, and what begins a namespace."""
SAID: dict[Isolation, str] = {
    "state": "sessions of one box share a process",
    "fork": "sessions of one box share a user id",
    "namespaces": "sessions of one box share its kernel and its memory limit alone",
    "container": "a fresh container for each episode, in namespaces of its own where the engine permits it",
}
"""What sessions have in common, at each level."""


class DockerSandbox(BoxSandbox):
    """Runs an app in a container. Raises PrerequisiteError for no engine or no image, SpecError for files out of reach."""

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
            label=f"{engine.name} ({image}{runtime}), isolation {options.level}: {network}, read-only files; {SAID[options.level]}",
        )
        reap_quietly(self._api)

    def _after_fork(self) -> None:
        self._api = connect(
            self._engine_name
        )  # two processes must not speak over one pooled connection

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
    """Whether sessions live in namespaces inside of the container; with level `container` that is a second wall."""
    return options.level in ("namespaces", "container")


def create(api: Any, image: str, options: SandboxOptions) -> str:
    """Creates a hardened container that is not started yet; returns its id.

    Raises: PrerequisiteError where the engine refuses `options.runtime`; docker.errors.APIError for other refusals.
    """
    import docker.errors
    from docker.types import LogConfig, Mount

    podman = is_podman(api)
    # podman gives a volume to the user of the container, who could then put other files in place of these; mounted read-only it
    # still takes them from outside, before the start. Docker leaves it to root, and fills no volume that is mounted read-only.
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
        memswap_limit=f"{options.memory_mb}m",  # equal to memory: no swap
        nano_cpus=int(options.cpus * 1e9),
        ulimits=_ulimits(options, podman=podman),
        log_config=LogConfig(
            type="none"
        ),  # what tools print would fill the engine's disk; attached streams do not need it
    )
    if needs_namespaces(options):
        # The kernel lets nobody mount a /proc of their own while parts of the one they see are covered. What is uncovered is
        # root's alone, and the box has no root.
        limits |= {"MaskedPaths": [], "ReadonlyPaths": []}
    try:
        # The low-level call with detach=False sets StdinOnce: when our end of stdin goes, the agent's end closes.
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
    """Our seccomp profile in place of the engine's, which forbids namespaces; AppArmor's, where there is one, forbids mounts."""
    profile = json.dumps(json.loads(SECCOMP.read_text(encoding="utf-8")), separators=(",", ":"))
    has_apparmor = any(
        "name=apparmor" in option for option in api.info().get("SecurityOptions") or ()
    )
    return [f"seccomp={profile}", *(["apparmor=unconfined"] if has_apparmor else [])]


def _ulimits(options: SandboxOptions, *, podman: bool) -> list[Any]:
    from docker.types import Ulimit

    limits = {"nofile": options.nofile, "core": 0}
    if podman:
        # podman asks for a million where nothing is said, which a service without the right to raise limits cannot grant.
        most = resource.getrlimit(resource.RLIMIT_NPROC)[1]
        limits["nproc"] = (
            MOST_PROCESSES if most == resource.RLIM_INFINITY else min(most, MOST_PROCESSES)
        )
    return [Ulimit(name=name, soft=limit, hard=limit) for name, limit in limits.items()]


class DockerTransport:
    """An agent as pid 1 of a container, with the attached streams in one socket.

    The engine frames its output: 1 byte stream, 3 of nothing, 4 of length (big endian), then the bytes. Only stream 1 is
    protocol. Source: Docker Engine API, "Attach to a container", stream format.
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
            self._stream = api.attach_socket(
                container, params=streams
            )  # kept: its end would close the connection
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
        """Closes our end, by the thread that reads: stream, socket and response hold each other and would stay open."""
        for part in (self._stream, self._socket, getattr(self._stream, "_response", None)):
            with contextlib.suppress(
                OSError, AttributeError, ValueError
            ):  # ValueError: closed with the one before
                part.close()  # type: ignore[union-attr]

    def _exactly(self, size: int) -> bytes:
        """The next `size` bytes; empty when the stream ends before."""
        while len(self._data) < size:
            try:
                more = self._socket.recv(1 << 18)
            except OSError:  # shut down by `kill`, or reset by an engine that went away
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
            self._socket.shutdown(
                socket.SHUT_RDWR
            )  # the agent sees the end of its stdin and ends everything
        with self._ending:
            if (
                self._killed
            ):  # a request after the client was closed would open a connection that nobody closes
                return
            self._killed = True
            # For an agent that is stuck in a tool (isolation `state`), and for an engine that has not noticed yet.
            self._quietly(lambda: self._api.kill(self.container))

    def _remove(self) -> None:
        self._quietly(lambda: self._api.remove_container(self.container, force=True, v=True))

    def _quietly(self, work: Callable[[], Any]) -> None:
        import docker.errors
        import requests

        with contextlib.suppress(docker.errors.DockerException, requests.RequestException, OSError):
            work()
