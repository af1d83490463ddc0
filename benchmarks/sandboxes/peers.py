"""Common pattern for comparison: `docker run` an episode and `docker exec` a call."""

from __future__ import annotations

import contextlib
import io
import json
import statistics
import tarfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from envgym.errors import WorldFailure
from envgym.messages import ToolCall
from envgym.sandbox import App
from envgym.sandbox.archive import pack
from envgym.sandbox.containers.addresses import EngineName
from sandboxes.engine import REST_SECONDS, EngineCpu

NOW = "2026-03-02T09:00:00"
PEER = """
import json, sqlite3, sys
sys.path.insert(0, "/peer")
from agent import load_app
app = load_app("/peer/app", {tools!r})
db = sqlite3.connect("/peer/state.db")
db.row_factory = sqlite3.Row
tool, arguments, now = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
import inspect
given = {{"db": db, "now": now}}
function = app.tools[tool]
names = inspect.signature(function).parameters
print(function(**arguments, **{{n: given[n] for n in names if n in given}}))
db.commit()
"""
Values = dict[str, float]


@dataclass(frozen=True)
class Peers:
    """Episodes with one container each.

    Args:
        state: File with the SQLite database at the start of an episode.
        calls: Tool calls of an episode.
    """

    backend: EngineName
    app: App
    state: bytes
    calls: Sequence[ToolCall]

    def measure(self, episodes: int) -> Values:
        """Measure episodes with one `docker run` each and one `docker exec` for each call."""
        import docker

        from envgym.sandbox.containers.engine import connect

        client = docker.DockerClient.__new__(docker.DockerClient)
        client.api = connect(self.backend)
        with EngineCpu() as alone:
            for _ in range(episodes):
                _run_nothing(client)
        walls = []
        calls = []
        with EngineCpu() as engine, contextlib.closing(client.api):
            cpu = time.process_time()
            for _ in range(episodes):
                start = time.perf_counter()
                calls += self._episode(client)
                walls.append(time.perf_counter() - start)
            host = time.process_time() - cpu
        return {
            "peer episode wall ms": 1000 * statistics.median(walls),
            "peer call ms": statistics.median(calls),
            "a container alone": 1000 * alone.seconds() / episodes,
            "peer cpu": 1000 * (host - engine.own_seconds + engine.seconds()) / len(walls),
        }

    def _episode(self, client: Any) -> list[float]:
        container = client.containers.run(
            "python:3.12-slim", ["sleep", "infinity"], detach=True, network_mode="none"
        )
        try:
            container.put_archive("/", self._files())
            return [_timed(lambda call=call: _exec(container, call)) for call in self.calls]
        finally:
            container.remove(force=True)

    def _files(self) -> bytes:
        buffer = io.BytesIO()
        with (
            tarfile.open(fileobj=buffer, mode="w") as archive,
            tarfile.open(fileobj=io.BytesIO(pack(self.app))) as own,
        ):
            for member in own:
                member.name = f"peer/{member.name}"
                archive.addfile(member, own.extractfile(member))
            for name, data in (
                ("run.py", PEER.format(tools=list(self.app.tools)).encode()),
                ("state.db", self.state),
            ):
                entry = tarfile.TarInfo(f"peer/{name}")
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
        return buffer.getvalue()


def _run_nothing(client: Any) -> None:
    """Start and remove a container that does no work."""
    container = client.containers.run(
        "python:3.12-slim", ["sleep", "infinity"], detach=True, network_mode="none"
    )
    container.remove(force=True)
    # Wait until the container's helper process has ended too.
    time.sleep(REST_SECONDS)


def _timed(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - start)


def _exec(container: Any, call: Any) -> None:
    code, said = container.exec_run(
        ["python", "-s", "/peer/run.py", call.name, json.dumps(call.arguments), NOW]
    )
    if code:
        raise WorldFailure("tool_crashed", said.decode(errors="replace")[-400:], stage="call")
