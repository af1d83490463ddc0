"""Entry point of the agent, and the server for isolation `state`: all sessions in one process.

With `state` the process that runs the tools reads its own state. That does not protect against
tools that run code written by a model.
"""

from __future__ import annotations

import json
import os
import resource
import select
import shutil
import sys
import threading
import time
from typing import Any

from .app import LoadedApp, load_app
from .cleaning import adopt_orphans, end_strays, usage
from .describe import describe_tool
from .errors import AppError, BoxError
from .file_tree import fresh_folder
from .fork.fork_server import ForkServer
from .namespaces import Limits
from .private_box import PrivateBox, isolate
from .protocol import Request, Wire, answer, attempt, no_session, take_stdio
from .session import Desk
from .signals import withstand_signals
from .tables import Images, prepare_image
from .tool_errors import provide_envgym
from .verify import serve_check

LAST_SECONDS = 1.0
"""Seconds that the running tool gets after the owner has ended."""


class StateServer:
    """Answer requests one by one.

    A hanging tool blocks all sessions until the host ends the box.
    """

    def __init__(self, app: LoadedApp, wire: Wire, *, output_bytes: int):
        self.app = app
        self.wire = wire
        self.output_bytes = output_bytes
        self.images, self.desks = Images(), dict[str, Desk]()

    def serve(self, lines: list[bytes] | None) -> None:
        """Answer `lines` and all later lines until stdin ends, then end what the tools started."""
        adopt_orphans()
        withstand_signals()
        threading.Thread(target=_end_with, args=(self.wire.source,), daemon=True).start()
        while lines is not None:
            for line in lines:
                self._answer(json.loads(line))
            lines = self.wire.lines()
        for desk in self.desks.values():
            desk.close()
        _leave_nothing()

    def _answer(self, request: Request) -> None:
        op = request["op"]
        desk = self.desks.get(request.get("session", ""))
        if op == "close":
            if desk:
                self.desks.pop(request["session"]).close()
        elif op == "ping":
            self.wire.say({"id": request["id"], "result": {"sessions": len(self.desks)} | usage()})
        elif op == "open":
            self.wire.say(attempt(request, lambda: self._open(request["session"], request["seed"])))
        elif op == "finish" and desk:
            self._reply(desk, request)
            self.desks.pop(request["session"]).close()
        else:
            self._reply(desk, request)

    def _reply(self, desk: Desk | None, request: Request) -> None:
        if desk and desk.work and desk.work.path.is_dir():
            os.chdir(desk.work.path)
        self.wire.say(answer(desk, request) if desk else no_session(request))

    def _open(self, session: str, seed: int) -> str:
        image = self.images.get(seed) or self.images.put(
            seed, prepare_image(self.app.schema_sql, self.app.seed_function, seed)
        )
        place = fresh_folder() if self.app.lay_out else ""
        desk = self.desks[session] = Desk(
            self.app, image, seed, output_bytes=self.output_bytes, place=place
        )
        return desk.state_hash


def _end_with(source: int) -> None:
    """End this process and what its tools started when stdin ends, even if a tool hangs."""
    poll = select.poll()
    poll.register(source, 0)  # An end is always reported.
    poll.poll()
    time.sleep(LAST_SECONDS)  # Unless a tool hangs, the main thread ends the process meanwhile.
    _leave_nothing()
    os._exit(1)


def _leave_nothing() -> None:
    end_strays(())
    if scratch := os.environ.get("ENVGYM_SCRATCH"):
        shutil.rmtree(scratch, ignore_errors=True)


def main() -> None:
    """Run the agent until stdin ends."""
    provide_envgym(sys.modules)
    os.umask(0o022)  # File modes are part of the state and must not depend on the caller's umask.
    wire = take_stdio()
    lines = wire.lines()
    while lines == []:
        lines = wire.lines()
    if lines is None:
        return
    hello, *rest = lines
    hello = json.loads(hello)
    if limits := hello.get("limits"):
        _limit(**limits)
    is_check = hello["isolation"] == "check"
    if (private := hello.get("private")) and not _isolate(private, wire, is_check=is_check):
        return
    if is_check:
        serve_check(wire, hello, rest)
        return
    try:
        more = {
            "documents": hello["documents"],
            "files": hello["files"],
            "servers": hello["servers"],
            "watch": hello.get("watch", ()),
        }
        app = load_app(hello["root"], hello["tools"], hello["schema"], hello["seed"], **more)
        server = _server(app, wire, hello)
    except AppError as error:
        wire.say({"id": 0, "error": {"kind": "app_error", "message": str(error)}})
        return
    except BoxError as error:
        wire.say({"id": 0, "error": {"kind": error.kind, "message": str(error)}})
        return
    wire.say({"id": 0, "result": [describe_tool(tool) for tool in app.tools.values()]})
    server.serve(rest)


def _isolate(private: dict[str, Any], wire: Wire, *, is_check: bool) -> bool:
    """Isolate a local box. If the kernel refuses, report that and return False."""
    scratch = os.environ.get("ENVGYM_SCRATCH")
    keep = [*private["keep"], *([scratch] if scratch and not is_check else [])]
    try:
        isolate(PrivateBox(**{**private, "keep": keep}))
    except OSError as error:
        message = f"the local box cannot isolate itself: {error}"
        wire.say({"id": 0, "error": {"kind": "sandbox_lost", "message": message}})
        return False
    return True


def _server(app: LoadedApp, wire: Wire, hello: Request) -> ForkServer | StateServer:
    if hello["isolation"] == "state":
        return StateServer(app, wire, output_bytes=hello["output_bytes"])
    apart = Limits(**hello["session"]) if hello["isolation"] == "namespaces" else None
    settings = {name: hello[name] for name in ("output_bytes", "open_files", "is_single")}
    try:
        return ForkServer(app, wire, apart=apart, **settings)
    except BoxError:
        # A box with one session is itself the isolation that was promised.
        if not hello["is_single"]:
            raise
        return ForkServer(app, wire, **settings)


def _limit(*, processes: int, files: int, memory_mb: int | None = None) -> None:
    """Limit each process of a box without a container. Memory counts data segments, in MiB."""
    if memory_mb:
        resource.setrlimit(resource.RLIMIT_DATA, (memory_mb * 2**20, memory_mb * 2**20))
    for kind, most in (
        (resource.RLIMIT_NPROC, processes),
        (resource.RLIMIT_NOFILE, files),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (most, most))
