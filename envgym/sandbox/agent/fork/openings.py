"""Open sessions in the fork server: build a start state once, fork the session's process.

Start states are cached. A builder is a child that runs the seed function. A box for one session
forks and isolates the session's process in advance (the spare).
"""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Callable
from typing import Any

from ..protocol import Reply, Request, encode, failed
from ..tables import Images, pack_image, unpack_image
from .children import SEND_SECONDS, Child, Role
from .held import Held
from .processes import Processes
from .session_limits import TRIAL_SECONDS
from .session_process import SessionProcess, hash_of_files

SPARE = "spare"
"""Name of the pre-forked child; the host uses other names for its sessions."""


class Openings:
    """Sessions of a box by name, and the processes that will serve the next ones.

    Args:
        work: What the children do.
    """

    def __init__(self, processes: Processes, work: SessionProcess):
        self.sessions: dict[str, Held] = {}
        self._processes = processes
        self._work = work
        self._images = Images()
        self._files = Images()
        self._builders: dict[int, Child] = {}
        self._spare: Child | None = None

    def descriptors(self) -> list[int]:
        """Return the descriptors of all sessions. No child but a judge may use them."""
        return [number for held in self.sessions.values() for number in held.descriptors]

    def packed_image(self, seed: int) -> str | None:
        """Return the cached database of a seed, as the host keeps it."""
        image = self._images.get(seed)
        return pack_image(image) if image else None

    def open(self, request: Request) -> None:
        """Start the session of an `open` request, after its state is built."""
        seed = request["seed"]
        if packed := request.pop("image", None):
            self._images.put(seed, unpack_image(packed))
        if image := self._images.get(seed):
            self._start(request, image)
        elif builder := self._builders.get(seed):
            builder.waiting.append(request)
        elif child := self.fork(
            "builder", str(seed), request, lambda end: self._work.build(seed, end)
        ):
            self._builders[seed] = child

    def built(self, child: Child, requests: list[Request], how: str) -> None:
        """Open the sessions that wait for a state. Its builder has ended."""
        self.forget(child)
        status, _, body = bytes(child.heard).partition(b"\n")
        if status == b"image" and how == "exit status 0":
            image = self._images.put(int(child.name), body)
            for request in requests:
                self._start(request, image)
            return
        message = f"the process that builds the state ended: {how}"
        for request in requests:
            said = body.decode() if status == b"error" else message
            self._processes.wire.say(failed(request, "seed_crashed", said))

    def forget(self, child: Child) -> None:
        """Forget a builder that has ended."""
        self._builders.pop(int(child.name), None)

    def opened(self, held: Held, reply: dict[str, Any]) -> Reply:
        """Keep the start state of a session that no tool has used, and return the host's answer."""
        if "error" not in reply:
            held.key = reply["result"]
        if files := reply.pop("files", None):
            held.tree = self._files.put(held.seed, files.encode())
        return reply

    def _start(self, request: Request, image: bytes) -> None:
        files = self._files.get(request["seed"]) or b""
        request["files"] = hash_of_files(files) if files else ""
        held = Held(request["session"], request["seed"], image, files)
        held.child = self._give_spare(request, image) or self.fork(
            "session",
            held.name,
            request,
            lambda end: self._work.serve_now(request, image, end),
        )
        if held.child:
            self.sessions[held.name] = held

    def start_spare(self) -> None:
        """Fork and isolate the process of the next session.

        If that fails, the session forks for itself and reports the error.
        """
        child = self.fork(
            "session", SPARE, {"timeout": TRIAL_SECONDS, "id": 0}, self._work.serve_later
        )
        if child is None:
            return
        child.socket.settimeout(TRIAL_SECONDS)
        try:
            child.waiting, child.deadline, ready = [], math.inf, child.socket.recv(1)
        except OSError:
            ready = b""
        child.socket.settimeout(SEND_SECONDS)
        if not ready:
            self._processes.end(child)
            return
        # Rehearse here too: pages shared with the child are copied at the first write.
        self._work.rehearse()
        self._spare = child

    def _give_spare(self, request: Request, image: bytes) -> Child | None:
        """Return the pre-forked child, assigned to this session. `None` if there is none."""
        child = self._spare
        self._spare = None
        if child is None or child not in self._processes.children:
            return None
        child.name = request["session"]
        child.waiting = [request]
        child.deadline = time.monotonic() + request["timeout"]
        try:
            child.socket.sendall(encode(request | {"image_bytes": len(image)}) + image)
        except OSError:
            self._processes.end(child)
            return None
        return child

    def fork(
        self, role: Role, name: str, request: Request, work: Callable[[socket.socket], None]
    ) -> Child | None:
        """Fork a child for a request. If the box is full, report that and return `None`."""
        try:
            return self._processes.fork(role, name, request, work, private=self.descriptors())
        except OSError as error:
            message = (
                f"no process is left in this box, which has {len(self.sessions)} sessions: {error}"
            )
            self._processes.wire.say(failed(request, "sandbox_full", message))
            return None
