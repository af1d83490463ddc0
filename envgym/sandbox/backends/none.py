"""Backend `none`: tools run in this process. For tests and for debugging tools with breakpoints.

Each session has private tables and files; refusals and failures are handled as in a box. Nothing is
isolated: a tool can read and end this process. A call that does not stop at its time limit is
abandoned with its session. The current folder is the caller's. A hidden test runs in a local box of
its own.
"""

from __future__ import annotations

import ctypes
import functools
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from queue import Empty, SimpleQueue
from typing import Any

from envgym.errors import SpecError, Stage, UsageError, WorldFailure
from envgym.sandbox import VERIFY_SECONDS, App, Isolation, RowChanges, ToolResult, Verification
from envgym.sandbox.agent import AppError, BoxError, Desk, describe_tool, load_app, prepare_image
from envgym.sandbox.agent.deadlines import CallTimeout
from envgym.sandbox.agent.errors import tail_of
from envgym.sandbox.agent.file_tree import fresh_folder
from envgym.sandbox.agent.tables import Images
from envgym.sandbox.backends.local import check_hello, start_check
from envgym.sandbox.box.checks import CheckRunner
from envgym.sandbox.openapi.documents import documents_of
from envgym.sandbox.options import SandboxOptions
from envgym.sandbox.statistics import Statistics, counting_failures

STOP_SECONDS = 1.0
"""Seconds that an interrupted call may take to stop before it is abandoned."""
LEVELS: tuple[Isolation, ...] = ("state",)
WHY_NOT: dict[Isolation, str] = dict.fromkeys(
    ("fork", "namespaces", "container"), "without a box there is only one process"
)


def probe() -> dict[str, object]:
    """Return the Python interpreter of this process."""
    return {"name": "python", "command": sys.executable}


def open(app: App, options: SandboxOptions) -> InProcessSandbox:
    """Return a sandbox that runs tools in this process."""
    return InProcessSandbox(app, options)


class InProcessSandbox:
    """Run an app in this process. Raises SpecError if the app cannot be loaded."""

    label = "none: tools run inside this process, nothing is isolated"

    def __init__(self, app: App, options: SandboxOptions | None = None):
        try:
            self._app = load_app(
                app.root,
                app.tools,
                app.schema,
                app.seed,
                files=app.files,
                documents=documents_of(app),
                watch=app.watch,
            )
        except AppError as error:
            raise SpecError(str(error)) from None
        self._output_bytes = (options or SandboxOptions()).output_bytes
        self._closed = False
        self._images, self._lock = Images(), threading.Lock()
        self.statistics = Statistics()
        options = options or SandboxOptions()
        self._checks = CheckRunner(
            functools.partial(start_check, options),
            check_hello(app, options),
            timeout_seconds=options.open_timeout_seconds,
            statistics=self.statistics,
        )

    def describe(self) -> list[dict[str, Any]]:
        return [describe_tool(tool) for tool in self._app.tools.values()]

    def tables(self, seed: int) -> dict[str, list[dict[str, Any]]]:
        """Return no tables: the app's schema and seed function define all of them."""
        return {}

    def open(self, *, seed: int, timeout_seconds: float) -> InProcessSession:
        if self._closed:
            raise UsageError("this sandbox is closed; open another one with open_sandbox()")
        with (
            counting_failures(self.statistics),
            self.statistics.timed("open"),
            self.statistics.timed("reset"),
        ):
            image = within(timeout_seconds, "open", lambda: self._image(seed))
            desk = within(timeout_seconds, "open", lambda: self._desk(image, seed))
        return InProcessSession(desk, self.statistics, self._checks)

    def _desk(self, image: bytes, seed: int) -> Desk:
        place = fresh_folder() if self._app.lay_out else ""
        # The global generator of `random` belongs to the whole process; a session must not reseed
        # it.
        return Desk(
            self._app, image, seed, output_bytes=self._output_bytes, fix_random=False, place=place
        )

    def _image(self, seed: int) -> bytes:
        with self._lock:  # Seed functions are user code and may not be thread-safe.
            image = self._images.get(seed)
            return image or self._images.put(
                seed, prepare_image(self._app.schema_sql, self._app.seed_function, seed)
            )

    def close(self) -> None:
        self._closed = True


class InProcessSession:
    """Session of one episode in this process."""

    def __init__(self, desk: Desk, statistics: Statistics, checks: CheckRunner):
        self.state_hash = desk.state_hash
        self._statistics = statistics
        self._checks = checks
        self._desk, self._lock, self._closed, self._lost = desk, threading.Lock(), False, ""
        self._final: dict[str, Any] | None = None

    def call(
        self, tool: str, arguments: dict[str, Any], *, now: str, timeout_seconds: float
    ) -> ToolResult:
        started = time.perf_counter()
        reply = self._do(
            "call",
            timeout_seconds,
            lambda: self._desk.call(tool, arguments, now, timeout_seconds),
            stop=self._desk.stop_call,
        )
        result = ToolResult(**reply)
        self._statistics.time_call(time.perf_counter() - started, inside=result.seconds)
        return result

    def diff(self, *, timeout_seconds: float) -> RowChanges:
        with self._statistics.timed("diff"):
            return self._do("diff", timeout_seconds, self._desk.diff)

    def finish(self, *, timeout_seconds: float, keep_files: bool = False) -> RowChanges:
        """Return the final changes. Processes that a tool left running are not ended."""
        with self._statistics.timed("diff"):
            final = self._do(
                "diff", timeout_seconds, lambda: self._desk.finish(keep_files=keep_files)
            )
        self._final = final
        return final["changes"]

    def verify(
        self,
        files: Mapping[str, str],
        command: Sequence[str],
        *,
        timeout_seconds: float,
        inputs: Mapping[str, str] | None = None,
    ) -> Verification:
        final = self._final or self._do(
            "score", VERIFY_SECONDS, lambda: self._desk.finish(keep_files=True)
        )
        if final["problem"]:
            return Verification(None, final["problem"])
        return self._checks.run(
            final["tree"], files, inputs or {}, command, timeout_seconds=timeout_seconds
        )

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if not self._lost:  # An abandoned call may still use the tables.
            with self._statistics.timed("close"), self._lock:
                self._desk.close()

    def _do(
        self,
        stage: Stage,
        timeout_seconds: float,
        work: Callable[[], Any],
        *,
        stop: Callable[[], None] | None = None,
    ) -> Any:
        with self._lock:
            if self._closed:
                raise UsageError("this session is closed; open another one with Sandbox.open()")
            if self._lost:
                raise WorldFailure("session_gone", self._lost, stage=stage)
            try:
                with counting_failures(self._statistics):
                    return within(timeout_seconds, stage, work, stop=stop)
            except WorldFailure as failure:
                if failure.kind == "timeout":
                    self._lost = "an earlier call did not end in time and may still be running"
                raise


def within(
    timeout_seconds: float,
    stage: Stage,
    work: Callable[[], Any],
    *,
    stop: Callable[[], None] | None = None,
) -> Any:
    """Run `work` in a thread and return its result.

    Args:
        timeout_seconds: Time limit.
        stage: Stage of a failure.
        work: Function to run.
        stop: Called at the time limit, before the thread is interrupted. A work that then ends has
            a result. None to abandon the thread at once.

    Raises:
        WorldFailure: If it fails, or after the timeout; the thread is then abandoned.
    """
    done: SimpleQueue[tuple[Any, WorldFailure | None]] = SimpleQueue()

    def run() -> None:
        try:
            done.put((work(), None))
        except BoxError as error:
            done.put((None, WorldFailure(error.kind, str(error), stage=stage)))
        except BaseException as error:
            kind = "seed_crashed" if stage == "open" else "tool_crashed"
            done.put((None, WorldFailure(kind, tail_of(error), stage=stage)))

    thread = threading.Thread(target=run, name="envgym-tool", daemon=True)
    thread.start()
    found = _take(done, timeout_seconds)
    if found is None and stop is not None:
        stop()
        found = _take(done, STOP_SECONDS / 4)
    if found is None and stop is not None:
        _interrupt(thread)
        found = _take(done, STOP_SECONDS)
    if found is None:
        message = f"not done after {timeout_seconds:g} s; its thread was abandoned"
        raise WorldFailure("timeout", message, stage=stage)
    result, failure = found
    if failure:
        raise failure
    return result


def _take(done: SimpleQueue, seconds: float) -> tuple[Any, WorldFailure | None] | None:
    try:
        return done.get(timeout=seconds)
    except Empty:
        return None


def _interrupt(thread: threading.Thread) -> None:
    """Raise CallTimeout in a thread, at its next instruction in Python."""
    ident = ctypes.c_ulong(thread.ident or 0)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ident, ctypes.py_object(CallTimeout))
