"""A small MCP server with tools that fail on request."""

import os
import sys
import time

from mcp.server.mcpserver import Image, MCPServer
from mcp.server.mcpserver.exceptions import ToolError

server = MCPServer("counter", log_level="ERROR")
rows = {"a": 0, "b": 0}
stuck = []


@server.tool()
def add(name: str, by: int = 1) -> str:
    """Add to a counter."""
    if name not in rows:
        raise ToolError(f"no counter {name}")
    rows[name] += by
    return str(rows[name])


@server.tool()
def given() -> str:
    """What the environment gave."""
    return (
        f"{os.environ.get('ENVGYM_SEED')} {os.environ.get('ENVGYM_NOW')}"
        f" {os.environ.get('COLOUR')} {os.getpid()}"
    )


@server.tool()
def picture() -> list:
    """Text and an image."""
    return ["a dot", Image(data=b"dot", format="png")]


@server.tool()
def talk(size: int) -> str:
    """Say much."""
    return "x" * size


@server.tool()
def die() -> str:
    """End."""
    print("out of paper", file=sys.stderr, flush=True)
    os._exit(3)


@server.tool()
def hang() -> str:
    """Sleep."""
    print("waiting for the moon", file=sys.stderr, flush=True)
    time.sleep(600)
    return ""


@server.tool()
def soil() -> str:
    """From now on a reset leaves something behind."""
    stuck.append(1)
    return "ok"


@server.tool()
def reset(seed: int, at: str = "") -> str:
    """Start anew."""
    if seed < 0:
        raise ToolError("no such seed")
    rows.update(a=seed + len(stuck), b=0)
    return "ok"


@server.tool()
def dump() -> dict[str, list[dict[str, str | int]]]:
    """Everything."""
    return {"counters": [{"name": name, "value": value} for name, value in rows.items()]}


if len(sys.argv) > 1:
    server.run("streamable-http", port=int(sys.argv[1]))
else:
    server.run()
