"""Fork server: one forked child per session, so a hanging or crashing tool harms only its session.

The server runs no tool and no seed function and never blocks on a child: it forwards lines with a
selector and kills a child at its deadline. States are built in a child too and cached. When a
session ends, its folder and the processes it left are removed; if anything remains, the host
retires the box. With isolation `namespaces` a child also enters new namespaces (`namespaces.py`).
"""

from __future__ import annotations

import gc
import json
import math
import os
import selectors
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable

from .app import LoadedApp
from .children import SEND_SECONDS, Child, fork
from .cleaning import (
    Traces,
    adopt_orphans,
    end_strays,
    ended_how,
    failure_kind,
    killed_for_memory,
    usage,
)
from .errors import AppError
from .file_tree import wipe
from .namespaces import SET_DUMPABLE, Limits, enter, prctl
from .protocol import Request, Wire, encode, failed, no_session
from .session_limits import TRIAL_SECONDS, try_namespaces
from .session_process import SessionProcess
from .tables import Images, pack_image, unpack_image

ANSWER_BYTES = 64 * 2**20
"""Maximum size of one answer of a child in bytes. A larger one ends the session."""
SPARE = "spare"
"""Name of the pre-forked child; the host uses other names for its sessions."""


class ForkServer:
    """Serve the protocol from forked children.

    Args:
        apart: Limits of a session in namespaces. By default a session is a plain process.
        is_single: The box serves one session. Its process is forked and isolated in advance.

    Raises:
        AppError: If the app has started threads, which a fork would lose.
        BoxError: Kind `level_refused` if sessions cannot have namespaces; the message has the
            reason.
    """

    def __init__(
        self,
        app: LoadedApp,
        wire: Wire,
        *,
        output_bytes: int,
        apart: Limits | None = None,
        is_single: bool = False,
    ):
        if threading.active_count() > 1:
            raise AppError(
                "the app's files start a thread when imported, which a fork would lose. Start "
                "it in the tool, or set sandbox.isolation=state."
            )
        self.wire = wire
        self.apart = apart
        self.images = Images()
        self.scratch = os.environ.get("ENVGYM_SCRATCH") or tempfile.mkdtemp(prefix="envgym-")
        self.work = SessionProcess(app, output_bytes=output_bytes, scratch=self.scratch)
        self.traces, self.memory_kills = Traces(self.scratch), killed_for_memory()
        adopt_orphans()
        prctl(SET_DUMPABLE, 0)  # No session may read this process's memory or trace it.
        self.children: set[Child] = set()
        self.sessions: dict[str, Child] = {}
        self.builders: dict[int, Child] = {}
        self.selector = selectors.DefaultSelector()
        if apart:
            try_namespaces(apart, self.scratch)
        gc.collect()
        # Freeze all objects loaded until now: the collector then never writes to them, so that
        # their memory pages remain shared (copy-on-write).
        gc.freeze()
        self.spare = self._start_spare() if is_single else None

    # --- the loop ---

    def serve(self, lines: list[bytes]) -> None:
        """Answer `lines` and all later lines until stdin ends, then kill every child."""
        self.selector.register(self.wire.source, selectors.EVENT_READ)
        try:
            for line in lines:
                self._answer(json.loads(line), line)
            while self._turn():
                self._expire()
        finally:
            for child in self.children:
                child.kill()
            shutil.rmtree(self.scratch, ignore_errors=True)

    def _turn(self) -> bool:
        """Handle all pending events. Return False if stdin has ended."""
        for key, _ in self.selector.select(self._patience()):
            if isinstance(key.data, Child):
                if key.data in self.children:  # An earlier event of this loop may have ended it.
                    self._hear(key.data)
                continue
            lines = self.wire.lines()
            if lines is None:
                return False
            for line in lines:
                self._answer(json.loads(line), line)
        return True

    def _patience(self) -> float | None:
        nearest = min((child.deadline for child in self.children), default=math.inf)
        return None if nearest == math.inf else max(0.0, nearest - time.monotonic())

    def _expire(self) -> None:
        now = time.monotonic()
        for child in [child for child in self.children if child.deadline <= now]:
            self._settle(
                child,
                "timeout",
                f"not done after {child.waiting[0]['timeout']:g} s; its process was killed",
            )

    # --- requests of the host ---

    def _answer(self, request: Request, line: bytes) -> None:
        op = request["op"]
        child = self.sessions.get(request.get("session", ""))
        if op == "ping":
            self.wire.say(
                {
                    "id": request["id"],
                    "result": {"sessions": len(self.sessions), "processes": len(self.children)}
                    | usage(),
                }
            )
        elif op == "open":
            self._open(request)
        elif op == "image":
            image = self.images.get(request["seed"])
            self.wire.say({"id": request["id"], "result": pack_image(image) if image else None})
        elif op == "close":
            if child:
                self._settle(child, "sandbox_lost", "the session was closed during the call")
        elif child is None:
            self.wire.say(no_session(request))
        elif child.waiting:
            self.wire.say(failed(request, "sandbox_lost", "the session is busy with another call"))
        else:
            self._pass_to(child, request, line)

    def _pass_to(self, child: Child, request: Request, line: bytes) -> None:
        child.waiting, child.deadline = [request], time.monotonic() + request["timeout"]
        try:
            child.socket.sendall(line + b"\n")
        except OSError as error:
            self._settle(child, "sandbox_lost", f"the session's process takes no request: {error}")

    def _open(self, request: Request) -> None:
        seed = request["seed"]
        if packed := request.pop("image", None):
            self.images.put(seed, unpack_image(packed))
        if image := self.images.get(seed):
            self._start_session(request, image)
        elif builder := self.builders.get(seed):
            builder.waiting.append(request)
        elif child := self._fork(seed, request, lambda end: self.work.build(seed, end)):
            self.builders[seed] = child

    def _start_session(self, request: Request, image: bytes) -> None:
        session = request["session"]
        if child := self._give_spare(request, image) or self._fork(
            session, request, lambda end: self.work.serve_now(request, image, end)
        ):
            self.sessions[session] = child

    def _start_spare(self) -> Child | None:
        """Fork and isolate the child of the next session.

        Returns `None` if that fails; the session then forks for itself and reports the error.
        """
        child = self._fork(SPARE, {"timeout": TRIAL_SECONDS, "id": 0}, self.work.serve_later)
        if child is None:
            return None
        child.socket.settimeout(TRIAL_SECONDS)
        try:
            child.waiting, child.deadline, ready = [], math.inf, child.socket.recv(1)
        except OSError:
            ready = b""
        child.socket.settimeout(SEND_SECONDS)
        if ready:
            # Rehearse here too: pages shared with the child are copied at the first write.
            self.work.rehearse()
            return child
        self._drop(child)
        return None

    def _give_spare(self, request: Request, image: bytes) -> Child | None:
        """Return the pre-forked child, assigned to this session. `None` if there is none."""
        child = self.spare
        self.spare = None
        if child is None or child not in self.children:
            return None
        child.name, child.waiting, child.deadline = (
            request["session"],
            [request],
            time.monotonic() + request["timeout"],
        )
        try:
            child.socket.sendall(encode(request | {"image_bytes": len(image)}) + image)
        except OSError:
            self._drop(child)
            return None
        return child

    # --- answers of children ---

    def _hear(self, child: Child) -> None:
        try:
            data = child.socket.recv(1 << 18)
        except OSError:
            data = b""
        child.heard += data
        if not data:
            self._ended(child)
        elif len(child.heard) > ANSWER_BYTES:
            self._settle(
                child,
                "tool_crashed",
                f"the session's process sent more than {ANSWER_BYTES >> 20} MiB in one answer",
            )
        elif not child.is_builder and data.endswith(b"\n"):
            self._pass_back(child)

    def _pass_back(self, child: Child) -> None:
        line = bytes(child.heard)
        child.heard = bytearray()
        try:
            right = bool(child.waiting) and json.loads(line)["id"] == child.waiting[0]["id"]
        except (ValueError, TypeError, LookupError):
            right = False
        # A tool may have written to the socket; its message must not reach other sessions.
        if not right:
            self._settle(child, "sandbox_lost", "the session's process broke the protocol")
            return
        child.waiting = []
        child.deadline = math.inf
        self.wire.pass_on(line)

    def _ended(self, child: Child) -> None:
        requests = child.waiting
        child.waiting = []
        how = self._how(self._drop(child))
        if not child.is_builder:
            for request in requests:
                kind = failure_kind(how, request["op"])
                self.wire.say(failed(request, kind, f"the session's process ended: {how}"))
            return
        status, _, body = bytes(child.heard).partition(b"\n")
        if status == b"image" and how == "exit status 0":
            image = self.images.put(int(child.name), body)
            for request in requests:
                self._start_session(request, image)
        else:
            message = (
                body.decode()
                if status == b"error"
                else f"the process that builds the state ended: {how}"
            )
            for request in requests:
                self.wire.say(failed(request, "seed_crashed", message))

    def _settle(self, child: Child, kind: str, message: str) -> None:
        """End a child and answer its pending requests with an error."""
        requests = child.waiting
        child.waiting = []
        self._drop(child)
        for request in requests:
            self.wire.say(failed(request, kind, message))

    def _drop(self, child: Child) -> int:
        """End a child, remove its leftovers and return its exit code."""
        self.children.discard(child)
        self.selector.unregister(child.socket)
        code = child.end()
        if child.is_builder:
            self.builders.pop(int(child.name), None)
        else:
            self.sessions.pop(str(child.name), None)
            wipe(self.work.folder(str(child.name)))
        self._prove_clean()
        return code

    def _how(self, code: int) -> str:
        """Describe how a process ended. Each kill by the kernel's OOM killer is reported once."""
        for_memory = code == -signal.SIGKILL and killed_for_memory() > self.memory_kills
        self.memory_kills += for_memory
        return ended_how(code, for_memory=for_memory)

    def _prove_clean(self) -> None:
        """End processes that a session left running, and report remaining traces to the host."""
        own = {child.pid for child in self.children}
        immortal = [] if end_strays(own) else ["a process that cannot be ended"]
        if left := [*immortal, *self.traces.new(self.sessions)]:
            self.wire.say({"event": "dirty", "message": f"a session left {', '.join(left[:5])}"})

    # --- children ---

    def _fork(
        self, name: str | int, request: Request, work: Callable[[socket.socket], None]
    ) -> Child | None:
        """Fork a child for a request. If the box is full, report that and return `None`."""
        # Close the selector too. A child that inherits it could block the agent.
        watched = [self.selector.fileno()] if hasattr(self.selector, "fileno") else []
        private = [
            self.wire.source,
            self.wire.sink,
            *watched,
            *(child.socket.fileno() for child in self.children),
        ]
        try:
            child = fork(name, request, work, private=private, enter=self._enter)
        except OSError as error:
            message = (
                f"no process is left in this box, which has {len(self.sessions)} sessions: {error}"
            )
            self.wire.say(failed(request, "sandbox_full", message))
            return None
        self.children.add(child)
        self.selector.register(child.socket, selectors.EVENT_READ, child)
        return child

    def _enter(self) -> None:
        if self.apart:
            enter(self.apart, self.scratch)
