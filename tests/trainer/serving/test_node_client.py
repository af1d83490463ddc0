"""The official Node client against the same server process."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.fakes.taught_model import LESSONS, TOOLS

VERSION = "6.49.0"
PROGRAM = Path(__file__).parents[2] / "fakes" / "client.mjs"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with the client. It is installed once into the cache of envgym."""
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("NOT TESTED, no node and npm on the PATH")
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    target = cache / "envgym" / f"node-openai-{VERSION}"
    if not (target / "node_modules" / "openai").is_dir():
        made = tmp_path_factory.mktemp("node")
        command = ["npm", "install", "--prefix", str(made), "--no-audit", "--no-fund"]
        done = subprocess.run(
            [*command, f"openai@{VERSION}"], capture_output=True, text=True, timeout=240
        )
        if done.returncode:
            pytest.skip(f"NOT TESTED, npm cannot install openai: {done.stderr.strip()[-200:]}")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(made, target, dirs_exist_ok=True)
    return target


def test_the_node_client_calls_tools_streams_and_raises_its_errors(url, folder):
    program = folder / "client.mjs"
    shutil.copy(PROGRAM, program)  # Node resolves packages from the folder of the program
    given = json.dumps({"model": "lamps", "messages": LESSONS["two"][0], "tools": TOOLS})
    done = subprocess.run(
        ["node", str(program), f"{url}/v1", given], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    calls = [("look_up", {"name": "x"}), ("set_value", {"value": 5})]
    for choice in (found["whole"], found["streamed"]):
        assert choice["finish_reason"] == "tool_calls"
        assert [
            (call["function"]["name"], json.loads(call["function"]["arguments"]))
            for call in choice["message"]["tool_calls"]
        ] == calls
    assert found["refused"] == {"name": "BadRequestError", "status": 400, "param": "top_p"}
    assert found["stopped"] == ""
