"""The event loop of a sandbox's clients, on a thread of its own.

Not anyio's `start_blocking_portal`: its generator blocks for ever when it is collected in a forked child, or at the end of a
program that closed nothing.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future

import anyio
from anyio.from_thread import BlockingPortal


def start_loop() -> BlockingPortal:
    """A portal into a loop that runs until `stop_loop`; a daemon thread, so it does not outlive the program."""
    ready: Future[BlockingPortal] = Future()
    threading.Thread(target=anyio.run, args=(_run, ready), name="envgym-mcp", daemon=True).start()
    return ready.result()


async def _run(ready: Future[BlockingPortal]) -> None:
    async with BlockingPortal() as portal:
        ready.set_result(portal)
        await portal.sleep_until_stopped()


def stop_loop(portal: BlockingPortal) -> None:
    """Ends the loop and what still runs on it."""
    portal.call(portal.stop, True)
