"""Boxes that are Docker containers: one long-lived container, many sessions, spoken to over its attached stdio.

Covered: no network, a read-only file system but for a small /tmp and /dev/shm, no capabilities, a user without rights, limits
on memory, processors, processes and output, and an end together with the owner even when that is killed: the engine closes
stdin, the agent ends, the engine removes the container. Files come as a copy (`parcel.py`), not as a mount of a host's folder.
Not covered: a hostile kernel exploit; sessions of one box that attack each other, as they share a user id. `docker exec` is
never used: it costs 100 ms where a line over stdio costs a quarter of one.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Any

from envgym.errors import WorldFailure
from envgym.sandbox import App
from envgym.sandbox.engine import connect, ensure_image
from envgym.sandbox.options import SandboxOptions
from envgym.sandbox.owner import labels, reap_orphans
from envgym.sandbox.parcel import pack
from envgym.sandbox.stdio import FIXED_VARIABLES, BoxSandbox, Tail

HOME = "/envgym"
"""A volume of the container's own, which only root may write: `agent/` and `app/`."""
NOBODY = "65534:65534"
OPEN_FILES = 1024
STDOUT = 1


class DockerSandbox(BoxSandbox):
    """Runs an app in a container. Raises PrerequisiteError for no engine or no image, SpecError for files out of reach."""

    def __init__(self, app: App, options: SandboxOptions):
        self._api = connect()
        ensure_image(self._api, options.image)
        self._parcel, self._options = pack(app), options
        shared = "user id" if options.isolation == "fork" else "process"
        super().__init__(
            app, self._start_container, root=f"{HOME}/app", options=options,
            label=f"docker ({options.image}), isolation {options.isolation}: no network, read-only files; "
                  f"sessions of one box share a {shared}",
        )  # fmt: skip
        reap_orphans(self._api)

    def _after_fork(self) -> None:
        self._api = connect()  # two processes must not speak over one pooled connection

    def close(self) -> None:
        super().close()
        self._api.close()

    def _start_container(self) -> DockerTransport:
        import docker.errors
        import requests

        try:
            return DockerTransport(self._api, create(self._api, self._options), self._parcel)
        except (docker.errors.DockerException, requests.RequestException, OSError) as error:
            raise WorldFailure("sandbox_lost", f"the engine could not start a container: {error}", stage="open") from None


def create(api: Any, options: SandboxOptions) -> str:
    """Creates a hardened container that is not started yet; returns its id."""
    from docker.types import LogConfig, Mount, Ulimit

    limits = api.create_host_config(
        auto_remove=True,
        network_mode="none",
        read_only=True,
        tmpfs={"/tmp": f"size={options.tmpfs_mb}m,mode=1777,nosuid,nodev,noexec"},
        mounts=[Mount(HOME, None, type="volume", no_copy=True)],
        cap_drop=["ALL"],
        security_opt=["no-new-privileges:true"],
        shm_size=f"{options.tmpfs_mb}m",
        pids_limit=options.pids,
        mem_limit=f"{options.memory_mb}m",
        memswap_limit=f"{options.memory_mb}m",  # equal to memory: no swap
        nano_cpus=int(options.cpus * 1e9),
        ulimits=[Ulimit(name="nofile", soft=OPEN_FILES, hard=OPEN_FILES), Ulimit(name="core", soft=0, hard=0)],
        log_config=LogConfig(type="none"),  # what tools print would fill the engine's disk; attached streams do not need it
    )
    # The low-level call with detach=False sets StdinOnce: when our end of stdin goes, the agent's end closes.
    return api.create_container(
        options.image, entrypoint=["python", "-s", f"{HOME}/agent"], command=[], user=NOBODY, working_dir="/tmp",
        stdin_open=True, detach=False, tty=False, hostname="box", labels=labels(), host_config=limits,
        environment=FIXED_VARIABLES | {"HOME": "/tmp", "ENVGYM_SCRATCH": "/tmp"},
    )["Id"]  # fmt: skip


class DockerTransport:
    """An agent as pid 1 of a container, with the attached streams in one socket.

    The engine frames its output: 1 byte stream, 3 of nothing, 4 of length (big endian), then the bytes. Only stream 1 is
    protocol. Source: Docker Engine API, "Attach to a container", stream format.
    """

    def __init__(self, api: Any, container: str, files: bytes):
        self._api, self.container = api, container
        self._tail, self._data, self._ending = Tail(), b"", threading.Lock()
        self._stream: Any = None
        self._killed = False
        try:
            api.put_archive(container, HOME, files)
            streams = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
            self._stream = api.attach_socket(container, params=streams)  # kept: its end would close the connection
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
            with contextlib.suppress(OSError, AttributeError, ValueError):  # ValueError: closed with the one before
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
        taken, self._data = self._data[:size], self._data[size:]
        return taken

    def last_words(self) -> str:
        return self._tail.text()

    def kill(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # the agent sees the end of its stdin and ends everything
        with self._ending:
            if self._killed:  # a request after the client was closed would open a connection that nobody closes
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
