"""Event loop of a sandbox's MCP clients, in a daemon thread.

Does not use anyio's `start_blocking_portal`: its generator blocks forever if it is collected in a
forked child, or at the end of a program that did not close it.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future

import anyio
from anyio.from_thread import BlockingPortal


def start_loop() -> BlockingPortal:
    """Start an event loop in a daemon thread and return a portal into it.

    It runs until `stop_loop`.
    """
    ready: Future[BlockingPortal] = Future()
    threading.Thread(target=anyio.run, args=(_run, ready), name="envgym-mcp", daemon=True).start()
    return ready.result()


async def _run(ready: Future[BlockingPortal]) -> None:
    async with BlockingPortal() as portal:
        ready.set_result(portal)
        await portal.sleep_until_stopped()


def stop_loop(portal: BlockingPortal) -> None:
    """Stop the loop and cancel its tasks."""
    portal.call(portal.stop, True)
