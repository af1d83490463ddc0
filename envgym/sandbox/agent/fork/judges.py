"""Judges of a box: give them requests, replace those that end, answer for those that fail.

One judge is forked when the box starts. Others join while a request takes long, so that the state
of one session does not delay the others.
"""

from __future__ import annotations

import contextlib
import math
import socket
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..protocol import Request, encode, failed
from .children import Child
from .held import Held
from .judge import KEPT_STARTS, Judge, not_compared, request_to_judge
from .processes import Processes

MOST_JUDGES = 8
IDLE_JUDGES = 1
"""Number of judges that remain when there is no request."""
PATIENCE_SECONDS = 0.5
"""Seconds after which a request that waits gets another judge. A fork costs as much as several
comparisons, and on a busy host ordinary requests wait for a tenth of a second."""
CPU_SHARE = 0.5
"""Part of the time limit of a request that its judge may compute. A judge that needs more ends
itself: the state is at fault.
"""
LEAST_CPU_SECONDS = 0.5
"""Processor time of a comparison that is much longer than an honest one. If a judge had less at the
time limit, the host is busy; otherwise the state is at fault.
"""
EXTRA_SECONDS = 6.0
"""Seconds that a judge gets in addition on a busy host. The host of the box waits longer."""


@dataclass(eq=False)
class _Job:
    """One request, and what to call before its answer is sent."""

    request: Request
    held: Held
    before_answer: Callable[[], None]
    begun: float = field(default_factory=time.monotonic)
    is_repeated: bool = False
    is_extended: bool = False
    cpu_before: float = 0.0
    """Processor time of the judge when it got the request, in seconds."""

    @property
    def deadline(self) -> float:
        return self.begun + self.request["timeout"]


@dataclass(eq=False)
class _Handle:
    """A judge, the start states that it has, and its current request."""

    child: Child
    known: list[str] = field(default_factory=list)
    job: _Job | None = None
    since: float = 0.0


class Judges:
    """Judges of a box.

    Args:
        private: Returns the descriptors of all sessions, which a new judge must close.
    """

    def __init__(self, processes: Processes, private: Callable[[], list[int]]):
        self._processes = processes
        self._private = private
        self._handles: dict[Child, _Handle] = {}
        self._queue: deque[_Job] = deque()
        self._assigned = 0.0
        with contextlib.suppress(OSError):
            self._start()

    def ask(
        self, request: Request, held: Held, before_answer: Callable[[], None] = lambda: None
    ) -> None:
        """Let a judge answer a request. Its answer goes to the host.

        Args:
            request: Request `diff` or `finish`.
            held: Session. It may be released before the answer.
            before_answer: Called when the judge has finished.
        """
        self._queue.append(_Job(request, held, before_answer))
        self.assign()

    def assign(self) -> None:
        """Give waiting requests to judges, and fork another judge if one waits for long."""
        self._assigned = time.monotonic()
        while self._queue:
            if not self._queue[0].held.is_open:
                self._fail(self._queue.popleft(), "the session was closed")
                continue
            if self._queue[0].deadline <= self._assigned:
                self._give_up(self._queue.popleft(), 0.0)
                continue
            handle = self._free_one()
            if handle is None:
                return
            self._give(handle, self._queue.popleft())

    def next_assignment(self) -> float:
        """Return the time at which `assign` should be called again."""
        return self._assigned + PATIENCE_SECONDS if self._queue else math.inf

    def hear(self, child: Child, line: bytes) -> None:
        """Pass the answer of a judge on to the host."""
        handle = self._handles[child]
        job = handle.job
        if job is None or not line.startswith(b'{"id":%d,' % job.request["id"]):
            self.ended(child)
            return
        handle.job = None
        child.waiting = []
        child.deadline = math.inf
        self._finish(job, line)
        if not self._queue and len(self._handles) > IDLE_JUDGES:
            self._drop(child)
        self.assign()

    def ended(self, child: Child) -> None:
        """Replace a judge that has ended. Its request is repeated once if there is time."""
        job = self._handles[child].job
        how = self._drop(child)
        if job is not None:
            half = job.begun + job.request["timeout"] / 2
            if not job.is_repeated and time.monotonic() < half:
                job.is_repeated = True
                self._queue.appendleft(job)
            else:
                self._fail(job, f"the process that compares it ended: {how}")
        self.assign()

    def overdue(self, child: Child) -> None:
        """End a judge at the deadline of its request, or give it more time on a busy host."""
        job = self._handles[child].job
        spent = child.cpu_seconds()
        if job is not None and not job.is_extended and spent - job.cpu_before < LEAST_CPU_SECONDS:
            job.is_extended = True
            child.deadline = time.monotonic() + EXTRA_SECONDS
            child.resume()
            return
        self._drop(child)
        if job is not None:
            self._give_up(job, spent - job.cpu_before)
        self.assign()

    def _give_up(self, job: _Job, cpu_seconds: float) -> None:
        limit = f"{job.request['timeout']:g} s"
        if job.request["op"] == "finish" and cpu_seconds < LEAST_CPU_SECONDS:
            # No process of the session lives, so none of them holds the judge up.
            message = f"the box did not compare the state in {limit}: it is overloaded"
            self._finish(job, encode(failed(job.request, "overloaded", message)))
        else:
            self._fail(job, f"this took more than {limit}")

    def _fail(self, job: _Job, problem: str) -> None:
        result: Any = not_compared(problem, op=job.request["op"])
        self._finish(job, encode({"id": job.request["id"], "result": result}))

    def _finish(self, job: _Job, line: bytes) -> None:
        job.before_answer()
        self._processes.wire.pass_on(line)

    def _free_one(self) -> _Handle | None:
        """Return a judge without a request, a new one if the first request has waited long."""
        for handle in self._handles.values():
            if handle.job is None:
                return handle
        waited = time.monotonic() - self._queue[0].begun
        is_due = not self._handles or waited >= PATIENCE_SECONDS
        if not is_due or len(self._handles) >= MOST_JUDGES:
            return None
        try:
            return self._start()
        except OSError:  # The box has no process left for now.
            return None

    def _start(self) -> _Handle:
        child = self._processes.fork(
            "judge",
            "",
            {"timeout": math.inf, "id": 0},
            lambda end: Judge().serve(end),
            private=self._private(),
        )
        child.waiting = []
        handle = self._handles[child] = _Handle(child)
        return handle

    def _give(self, handle: _Handle, job: _Job) -> None:
        child = handle.child
        handle.job = job
        job.cpu_before = child.cpu_seconds()
        child.waiting = [job.request]
        child.deadline = max(job.deadline, time.monotonic() + 1.0)
        child.resume()  # A session that shares the user id may have stopped it.
        try:
            self._send(handle, job)
        except OSError:
            self.ended(child)

    def _send(self, handle: _Handle, job: _Job) -> None:
        held = job.held
        blobs = [] if held.key in handle.known else [held.image, held.tree]
        line = request_to_judge(
            job.request,
            held.key,
            cpu_seconds=max(LEAST_CPU_SECONDS, CPU_SHARE * job.request["timeout"]),
            sizes=[len(blob) for blob in blobs],
        )
        sent = socket.send_fds(handle.child.socket, [line], held.descriptors)
        handle.child.socket.sendall(line[sent:] + b"".join(blobs))
        if blobs:
            handle.known = [*handle.known, held.key][-KEPT_STARTS:]

    def _drop(self, child: Child) -> str:
        del self._handles[child]
        return self._processes.end(child)
