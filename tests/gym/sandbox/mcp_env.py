"""A small environment with an MCP server."""

import json
from pathlib import Path

from envgym.env import ToolWorld
from envgym.spec.environment import load_spec
from tests.fakes import APPS
from tests.fakes.kiosk_app import NOW

TASKS = """
from envgym import Change, Draw, Task, ToolCall, template

@template(level="L0")
def add_to(draw: Draw) -> Task:
    row = draw.row("SELECT * FROM counters ORDER BY name")
    return draw.task(prompt=f"Add 2 to {row['name']}.",
                     oracle=[ToolCall("add", {"name": row["name"], "by": 2})],
                     changes=[Change.update("counters", row["name"], value=row["value"] + 2)])
"""
KEPT = {
    "reset": {"tool": "reset", "arguments": {"seed": "{seed}"}},
    "dump": "dump",
    "keys": {"counters": ["name"]},
}


def write_env(
    folder: Path, *, tools: list | None = None, sandbox: dict | None = None, **mcp
) -> Path:
    """Write an environment on the counter server; `mcp` holds settings of its block."""
    (folder / "mcp").mkdir(exist_ok=True)
    (folder / "mcp/server.py").write_text((APPS / "mcp/server.py").read_text())
    (folder / "tasks.py").write_text(TASKS)
    block = {"command": ["python", "mcp/server.py"]} | mcp
    spec = {
        "id": "t/counter-v0",
        "tools": [
            *(tools or []),
            {"mcp": {key: value for key, value in block.items() if value is not None}},
        ],
        "sandbox": {"backend": "local"} | (sandbox or {}),
        "state": {"clock_start": NOW},
        "tasks": {"from": "tasks.py", "val": 2, "test": 4},
    }
    path = folder / "env.yaml"
    path.write_text(json.dumps(spec))
    return path


def make_world(folder: Path, **settings) -> ToolWorld:
    return ToolWorld(load_spec(write_env(folder, **settings)))
