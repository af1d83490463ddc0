"""Listen, serve, and drain at a signal.

At the first SIGINT or SIGTERM, requests in flight go on and new ones get status 503. The server
ends when none is left, or after `drain_seconds`. A second signal ends it at once.
"""

from __future__ import annotations

import errno
import logging
import socket
import time
from collections.abc import Callable
from types import FrameType

import uvicorn

from envgym.errors import UsageError
from envgym_trainer.serving.api_route import ServerState
from envgym_trainer.serving.app import build_app

KEEP_ALIVE_SECONDS = 75
"""Time after which an idle connection is closed. Longer than clients keep theirs by default."""
INTERRUPTED = 130


def listen(host: str, port: int) -> socket.socket:
    """Bind an address. Connections are accepted when the server runs.

    Args:
        host: Name or IP address.
        port: Port; 0 lets the system choose one.

    Raises:
        UsageError: If the address cannot be used.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise UsageError(
            f"--host {host}: {error.strerror or error}. Use an address of this machine, such as "
            "127.0.0.1."
        ) from None
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise UsageError(_bind_problem(host, port, error)) from None
    return bound


def url_of(bound: socket.socket) -> str:
    """Return the URL of a bound address."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(
    state: ServerState,
    bound: socket.socket,
    *,
    drain_seconds: float = 600.0,
    on_ready: Callable[[], None] = lambda: None,
    on_drain: Callable[[int], None] = lambda count: None,
) -> int:
    """Serve until a signal ends the process's server, or `stop` of the state is set.

    Args:
        state: State of the server.
        bound: Address of `listen`. It is closed at the end.
        drain_seconds: Maximum time in seconds for the requests in flight after a signal.
        on_ready: Callback when requests are accepted.
        on_drain: Callback at the first signal, with the number of requests in flight.

    Returns:
        0 after a drain, or 130 if a second signal or `drain_seconds` ended it.
    """
    config = uvicorn.Config(
        build_app(state),
        log_config=None,
        access_log=False,
        lifespan="off",
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
    )
    server = DrainingServer(config, state, drain_seconds, on_ready, on_drain)
    server.run(sockets=[bound])
    return INTERRUPTED if server.force_exit else 0


class DrainingServer(uvicorn.Server):
    """Server that answers the requests in flight before it ends."""

    def __init__(
        self,
        config: uvicorn.Config,
        state: ServerState,
        drain_seconds: float,
        on_ready: Callable[[], None],
        on_drain: Callable[[int], None],
    ):
        super().__init__(config)
        self._state = state
        self._drain_seconds = drain_seconds
        self._on_ready = on_ready
        self._on_drain = on_drain
        self._deadline = 0.0

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Start to drain at the first signal, and end at the second one."""
        if self._state.is_draining:
            self._end_at_once()
            return
        self._state.is_draining = True
        self._deadline = time.monotonic() + self._drain_seconds
        self._on_drain(self._state.counters.in_flight)

    async def on_tick(self, counter: int) -> bool:
        if self._state.is_draining:
            if self._state.counters.in_flight == 0:
                self.should_exit = True
            elif time.monotonic() > self._deadline:
                self._end_at_once()
        return await super().on_tick(counter)

    def _end_at_once(self) -> None:
        """Cancel the requests in flight, without a traceback of each."""
        logging.getLogger("uvicorn.error").disabled = True
        self.force_exit = self.should_exit = True


def _bind_problem(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} of {host} is in use. Choose another one with --port, or 0 for any."
    if error.errno == errno.EACCES:
        return f"port {port} may not be used by this account. Choose one above 1023 with --port."
    return (
        f"--host {host} --port {port}: {error.strerror or error}. Use an address of this machine, "
        "such as 127.0.0.1."
    )
