"""Fork server: one forked child per session, so a hanging or crashing tool harms only its session.

The server runs no tool and no seed function and never blocks on a child: it forwards lines with a
selector and kills a child at its deadline. States are built in a child too and cached, and judges
compare them (`judge.py`). A session outlives its process until the host closes it: then its folder
is removed. If anything remains, the host retires the box. With isolation `namespaces` a child also
enters new namespaces (`namespaces.py`).
"""

from __future__ import annotations

import gc
import json
import math
import os
import selectors
import shutil
import socket
import tempfile
import threading
import time

from ..app import LoadedApp
from ..cleaning import Traces, failure_kind, usage
from ..errors import AppError
from ..file_tree import wipe
from ..namespaces import SET_DUMPABLE, Limits, enter, prctl
from ..protocol import Request, Wire, failed, no_session
from ..signals import ignore_signals
from .answers import checked, most_bytes
from .children import Child
from .held import Held
from .judges import Judges
from .openings import Openings
from .processes import Processes
from .session_limits import raise_file_limit, try_namespaces
from .session_process import SessionProcess

ANSWER_BYTES = 64 * 2**20
"""Maximum size of one answer of a builder or a judge in bytes. A larger one ends it."""


class ForkServer:
    """Serve the protocol from forked children.

    Args:
        open_files: Maximum number of open files of each process of a session.
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
        open_files: int,
        apart: Limits | None = None,
        is_single: bool = False,
    ):
        if threading.active_count() > 1:
            raise AppError(
                "the app's files start a thread when imported, which a fork would lose. Start "
                "it in the tool, or set sandbox.isolation=state."
            )
        ignore_signals()
        raise_file_limit()
        self.wire = wire
        self.apart = apart
        self.output_bytes = output_bytes
        self.scratch = os.environ.get("ENVGYM_SCRATCH") or tempfile.mkdtemp(prefix="envgym-")
        self.work = SessionProcess(
            app, output_bytes=output_bytes, scratch=self.scratch, open_files=open_files
        )
        self.traces = Traces(self.scratch)
        self.processes = Processes(wire, self._enter)
        self.selector = self.processes.selector
        prctl(SET_DUMPABLE, 0)  # No session may read this process's memory or trace it.
        self.openings = Openings(self.processes, self.work)
        self.sessions = self.openings.sessions
        if apart:
            try_namespaces(apart, self.scratch)
        gc.collect()
        # Freeze all objects loaded until now: the collector then never writes to them, so that
        # their memory pages remain shared (copy-on-write).
        gc.freeze()
        self.judges = Judges(self.processes, self.openings.descriptors)
        if is_single:
            self.openings.start_spare()

    def _enter(self) -> None:
        if self.apart:
            enter(self.apart, self.scratch)

    # --- the loop ---

    def serve(self, lines: list[bytes]) -> None:
        """Answer `lines` and all later lines until stdin ends, then kill every child."""
        self.selector.register(self.wire.source, selectors.EVENT_READ)
        try:
            for line in lines:
                self._answer(json.loads(line), line)
            while self._turn():
                self._expire()
                self.judges.assign()
        finally:
            self.processes.end_all()
            shutil.rmtree(self.scratch, ignore_errors=True)

    def _turn(self) -> bool:
        """Handle all pending events. Return False if stdin has ended."""
        for key, _ in self.selector.select(self._patience()):
            if isinstance(key.data, Child):
                # An earlier event of this loop may have ended it.
                if key.data in self.processes.children:
                    self._hear(key.data)
                continue
            lines = self.wire.lines()
            if lines is None:
                return False
            for line in lines:
                self._answer(json.loads(line), line)
        return True

    def _patience(self) -> float | None:
        nearest = min(self.processes.nearest_deadline(), self.judges.next_assignment())
        return None if nearest == math.inf else max(0.0, nearest - time.monotonic())

    def _expire(self) -> None:
        for child in self.processes.overdue():
            if child not in self.processes.children:
                continue
            if child.role == "judge":
                self.judges.overdue(child)
            elif child.role == "session" and child.is_stopped():
                self._settle(child, "session_ended", "a signal stopped the session's process")
            else:
                limit = f"not done after {child.waiting[0]['timeout']:g} s"
                self._settle(child, "timeout", f"{limit}; its process was killed")

    # --- requests of the host ---

    def _answer(self, request: Request, line: bytes) -> None:
        op = request["op"]
        held = self.sessions.get(request.get("session", ""))
        if op == "ping":
            counts = {"sessions": len(self.sessions), "processes": len(self.processes.children)}
            self.wire.say({"id": request["id"], "result": counts | usage()})
        elif op == "open":
            self.openings.open(request)
        elif op == "image":
            image = self.openings.packed_image(request["seed"])
            self.wire.say({"id": request["id"], "result": image})
        elif op == "close":
            if held:
                self._close(held)
        elif held is None:
            self.wire.say(no_session(request))
        elif held.child and held.child.waiting:
            self.wire.say(failed(request, "sandbox_lost", "the session is busy with another call"))
        else:
            self._serve(held, request, line)

    def _serve(self, held: Held, request: Request, line: bytes) -> None:
        if request["op"] in ("diff", "finish") and held.is_open:
            if request["op"] == "finish":
                self._finish(held, request)
            else:
                self.judges.ask(request, held)
        elif held.child is None:
            self.wire.say(no_session(request))
        else:
            self._pass_to(held.child, request, line)

    def _finish(self, held: Held, request: Request) -> None:
        """End the session's processes, then compare its state once and remove it."""
        if held.child:
            self._settle(held.child, "session_ended", "the session is finished")
        self.judges.ask(request, held, before_answer=lambda: self._close(held))

    def _pass_to(self, child: Child, request: Request, line: bytes) -> None:
        child.waiting, child.deadline = [request], time.monotonic() + request["timeout"]
        try:
            child.socket.sendall(line + b"\n")
        except OSError as error:
            self._settle(child, "session_ended", f"the session's process takes no request: {error}")

    # --- answers of children ---

    def _hear(self, child: Child) -> None:
        held = self.sessions.get(child.name) if child.role == "session" else None
        try:
            if held is None or held.is_open:
                data = child.socket.recv(1 << 18)
            else:
                data, descriptors, _, _ = socket.recv_fds(child.socket, 1 << 18, 2)
                held.descriptors += descriptors
        except OSError:
            data = b""
        child.heard += data
        if not data:
            self._ended(child)
        elif len(child.heard) > self._most_bytes(child):
            self._settle(
                child,
                "session_ended" if child.role == "session" else "tool_crashed",
                f"the session's process sent more than {self._most_bytes(child):,} bytes",
            )
        elif child.role != "builder" and data.endswith(b"\n"):
            line = bytes(child.heard)
            child.heard = bytearray()
            if child.role == "judge":
                self.judges.hear(child, line)
            else:
                self._pass_back(child, line)

    def _most_bytes(self, child: Child) -> int:
        if child.role != "session":
            return ANSWER_BYTES
        return most_bytes(child.waiting[0] if child.waiting else None, self.output_bytes)

    def _pass_back(self, child: Child, line: bytes) -> None:
        """Pass an answer of a session's process on to the host."""
        request = child.waiting[0] if child.waiting else None
        held = self.sessions.get(child.name)
        if request and held and request["op"] == "open":
            # The session's process has not run a tool yet.
            reply = self.openings.opened(held, json.loads(line))
            child.waiting = []
            child.deadline = math.inf
            if not held.is_open:
                self._close(held)
            self.wire.say(reply)
            return
        # A tool may have written to the socket; its message must not reach other sessions.
        answer = checked(line, request) if request else None
        if answer is None:
            self._settle(child, "session_ended", "the session's process broke the protocol")
            return
        child.waiting = []
        child.deadline = math.inf
        self.wire.pass_on(answer)

    def _ended(self, child: Child) -> None:
        if child.role == "judge":
            self.judges.ended(child)
            return
        requests = child.waiting
        child.waiting = []
        how = self._drop(child)
        if child.role == "builder":
            self.openings.built(child, requests, how)
            return
        kind = failure_kind(how, requests[0]["op"] if requests else "call")
        for request in requests:
            self.wire.say(failed(request, kind, f"the session's process ended: {how}"))

    # --- ends ---

    def _settle(self, child: Child, kind: str, message: str) -> None:
        """End a child and answer its pending requests with an error."""
        requests = child.waiting
        child.waiting = []
        self._drop(child)
        if child.role == "builder":
            self.openings.forget(child)
        for request in requests:
            self.wire.say(failed(request, kind, message))

    def _drop(self, child: Child) -> str:
        """End a child and its descendants, and return a description of its end.

        Its session remains, with the state that it left, if it was open.
        """
        how = self.processes.end(child)
        if not self.processes.end_strays():
            self._report(["a process that cannot be ended"])
        held = self.sessions.get(child.name)
        if held and held.child is child:
            held.child = None
            if not held.is_open:
                self._close(held)
        return how

    def _close(self, held: Held) -> None:
        """Remove a session, and report its remaining traces to the host."""
        if held.child:
            self._settle(held.child, "sandbox_lost", "the session was closed during the call")
        if self.sessions.pop(held.name, None) is None:
            return
        held.release()
        wipe(self.work.folder(held.name))
        if left := self.traces.new(self.sessions):
            if not self.sessions:
                self.traces.remove(left)  # They may fill the disk that the next check needs.
            self._report(left)

    def _report(self, left: list[str]) -> None:
        self.wire.say({"event": "dirty", "message": f"a session left {', '.join(left[:5])}"})
