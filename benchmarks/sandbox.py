"""How fast are the sandboxes, and what do they cost? Prints each figure with its goal, beside the pattern of other projects.

    python benchmarks/sandbox.py                    # some minutes, needs an engine
    python benchmarks/sandbox.py --quick --json figures.json

The work is the CRM of `envs/`: training tasks whose oracle makes 5 calls, 2 of which write, eight episodes of a task as in a
group of GRPO; then the diff that a reward needs. Every figure is measured once a round, in an order that is turned round each
time, and the median of the rounds is shown. p50 and p99 are those of a round's operations.

    tool overhead          wall time of a call at the host minus the time inside the tool; one session alone
    state reset            wall time until a fresh state is there, in a session of `state`, one alone; the state built before
    open at 8 at once      wall time until an episode can begin, eight threads playing episodes
    strict open            container level: `prefetch 0` has no box ready; from prefetch, a box waits and the group's state is known
    episodes/s and core    1000 / CPU ms of an episode: host process, boxes (their control groups), engine (dockerd, containerd and
                           its helpers, from /proc, where that can be read; it counts what others ask of the engine as well)
    strict over fork       the same CPU ms, one by the other
    memory of a session    growth of a box with 16 open sessions, by session; of a container: its control group when new, and its
                           helper process where /proc tells
    stuck tool             wall time past the deadline of a tool that never ends, until the answer is there
    docker exec            exec events of the engine on containers of ours while the levels above were measured
    peers                  the pattern of other projects: `docker run` for each episode, `docker exec` for each call, through the
                           Docker SDK, the same tools on a database file that is there before, without a diff
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import statistics
import sys
import tarfile
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envgym.errors import EnvgymError, PrerequisiteError, WorldFailure
from envgym.registration import make_world
from envgym.sandbox import App
from envgym.sandbox.agent import prepare_image
from envgym.sandbox.factory import open_sandbox
from envgym.sandbox.options import SandboxOptions
from envgym.sandbox.parcel import pack
from envgym.sandbox.workload import GROUP, Work, hold_sessions, play_works, works_of
from envgym.spec import load_spec

CALLS, WRITES = 5, 2
NOW = "2026-03-02T09:00:00"
ENGINE = ("dockerd", "containerd", "containerd-shim")
SPIN = 'def spin() -> str:\n    """Never ends."""\n    while True:\n        pass\n'
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
print(function(**arguments, **{{n: given[n] for n in inspect.signature(function).parameters if n in given}}))
db.commit()
"""
Values = dict[str, float]


@dataclass(frozen=True, slots=True)
class Goal:
    """What a figure should be."""

    name: str
    unit: str
    limit: float
    is_most: bool = True
    """The limit is a maximum; else a minimum."""

    def is_met(self, value: float) -> bool:
        return value <= self.limit if self.is_most else value >= self.limit


GOALS = (
    Goal("tool overhead p50, fork", "ms", 1),
    Goal("tool overhead p99, fork", "ms", 10),
    Goal("state reset p50", "ms", 2),
    Goal("open p50, 8 at once, fork", "ms", 20),
    Goal("open p99, 8 at once, fork", "ms", 100),
    Goal("open p50, 8 at once, namespaces", "ms", 75),
    Goal("open p99, 8 at once, namespaces", "ms", 250),
    Goal("strict open p50, prefetch 0", "ms", 1000),
    Goal("strict open p50, from prefetch", "ms", 5),
    Goal("episodes/s and core, state", "", 200, is_most=False),
    Goal("episodes/s and core, fork", "", 50, is_most=False),
    Goal("episodes/s and core, namespaces", "", 30, is_most=False),
    Goal("episodes/s and core, container", "", 2, is_most=False),
    Goal("CPU of strict over fork", "x", 25, is_most=False),
    Goal("memory of a session, fork", "MiB", 5),
    Goal("memory of a container", "MiB", 25),
    Goal("stuck tool killed p99", "ms", 50),
    Goal("docker exec on the tool path", "", 0),
)


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    rounds: int = 5
    episodes: int = 200
    strict: int = 16
    opens: int = 8
    stuck: int = 20
    held: int = 16
    peers: int = 6


QUICK = Sizes(rounds=1, episodes=16, strict=3, opens=2, stuck=3, held=4, peers=1)


class EngineCpu:
    """CPU of the engine's processes, those that end in between included as they were last seen."""

    def __init__(self) -> None:
        self._seen: dict[int, float] = {}
        self._over = threading.Event()
        self.start = 0.0

    def __enter__(self) -> EngineCpu:
        self._look()
        self._base = dict(self._seen)
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._look()

    def seconds(self) -> float:
        return sum(spent - self._base.get(pid, 0.0) for pid, spent in self._seen.items())

    @property
    def is_readable(self) -> bool:
        return bool(self._seen)

    def _watch(self) -> None:
        while not self._over.wait(0.1):
            self._look()

    def _look(self) -> None:
        for pid, name, fields in _processes():
            if name in ENGINE:
                self._seen[pid] = max(self._seen.get(pid, 0.0), sum(map(int, fields[11:15])) / 100)  # in USER_HZ, with children


def _processes() -> Iterator[tuple[int, str, list[str]]]:
    """(pid, name, the fields of /proc/PID/stat from the state on)."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            head, _, rest = (folder / "stat").read_text().rpartition(")")
            yield int(folder.name), head.partition("(")[2], rest.split()


class Bench:
    """All measurements under one backend."""

    def __init__(self, backend: str, sizes: Sizes):
        self.backend, self.sizes = backend, sizes
        spec = load_spec("crm", ["sandbox.backend=none"])
        world: Any = make_world(spec)
        found = [world.tasks.task(name) for name in world.tasks.ids("train", levels=("L2", "L3"), count=400)]
        self.tasks = [task for task in found if (len(task.oracle), len(task.changes)) == (CALLS, WRITES)]
        self.works = works_of(self.tasks, sizes.episodes)
        self.app, self.spec = App(spec.root.resolve(), spec.tools, spec.state.schema_file, spec.state.seed), spec
        self.images = {task.seed: _image(spec, task.seed) for task in self.tasks[:1]}
        self.engine_read = False
        world.close()

    @contextlib.contextmanager
    def sandbox(self, level: str, app: App | None = None, **pool: Any) -> Iterator[Any]:
        options = SandboxOptions.model_validate({"backend": self.backend, "isolation": level, "pool": pool})
        sandbox = open_sandbox(app or self.app, options)
        try:
            yield sandbox
        finally:
            sandbox.close()

    def cpu_ms(self, sandbox: Any, works: Sequence[Work], sessions: int) -> float:
        """CPU of an episode, host, boxes and engine."""
        before = sandbox.pool.cpu_seconds()
        with EngineCpu() as engine:
            played = play_works(sandbox, works, sessions=sessions, now=NOW)
            boxes = sandbox.pool.cpu_seconds() - before
        self.engine_read = engine.is_readable
        if played.void:
            raise WorldFailure("sandbox_lost", f"{played.void} of {played.episodes} episodes were void", stage="call")
        return 1000 * (played.host_cpu_seconds + boxes + engine.seconds()) / played.episodes

    def level(self, level: str) -> Values:
        with self.sandbox(level) as sandbox:
            play_works(sandbox, self.works[:8], sessions=1, now=NOW)
            sandbox.statistics.take()
            play_works(sandbox, self.works[:: max(1, len(self.works) // 50)], sessions=1, now=NOW)
            alone = sandbox.statistics.take()
            cpu = self.cpu_ms(sandbox, self.works, 8)
            busy = sandbox.statistics.take()
        values = {f"cpu {level}": cpu, f"episodes/s and core, {level}": 1000 / cpu}
        values |= {f"open {p}, 8 at once, {level}": busy[f"open_ms/{p}"] for p in ("p50", "p99")}
        values |= {f"tool overhead {p}, {level}": alone[f"call_overhead_ms/{p}"] for p in ("p50", "p99")}
        return values | {f"reset p50, {level}": alone["reset_ms/p50"]}

    def state(self) -> Values:
        with self.sandbox("state") as sandbox:
            play_works(sandbox, self.works[:GROUP], sessions=1, now=NOW)
            sandbox.statistics.take()
            play_works(sandbox, self.works[:GROUP] * max(1, len(self.works) // GROUP), sessions=1, now=NOW)
            return {"state reset p50": sandbox.statistics.take()["reset_ms/p50"]}

    def strict(self) -> Values:
        with self.sandbox("container") as sandbox:
            play_works(sandbox, self.works[:1], sessions=1, now=NOW)
            cpu = self.cpu_ms(sandbox, self.works[: self.sizes.strict], 2)
        return {"cpu container": cpu, "episodes/s and core, container": 1000 / cpu}

    def strict_opens(self) -> Values:
        work, cold, warm = self.works[0], [], []
        with self.sandbox("container", ready=0) as sandbox:
            cold = [_open_ms(sandbox, work.seed) for _ in range(self.sizes.opens)]
        with self.sandbox("container") as sandbox:
            _open_ms(sandbox, work.seed)
            for _ in range(self.sizes.opens):
                _until(lambda: len(sandbox.pool.boxes) >= 2)
                warm.append(_open_ms(sandbox, work.seed))
        return {
            "strict open p50, prefetch 0": statistics.median(cold),
            "strict open p50, from prefetch": statistics.median(warm),
        }

    def memory(self) -> Values:
        with self.sandbox("fork") as sandbox:
            sandbox.describe()
            new = sandbox.pool.boxes[0].usage().memory / 2**20 + _helper_mb(sandbox.pool.boxes[0])
            play_works(sandbox, self.works[:1], sessions=1, now=NOW)
            sandbox.statistics.take()
            hold_sessions(sandbox, self.works[: self.sizes.held], now=NOW, look=sandbox.pool.look_at_sessions)
            session = sandbox.statistics.take()["session_mb/p50"]
        return {"memory of a session, fork": session, "memory of a container": new}

    def stuck(self) -> Values:
        deadline, late = 0.2, []
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "spin.py").write_text(SPIN)
            with self.sandbox("fork", App(Path(folder), ("spin.py",))) as sandbox:
                for _ in range(self.sizes.stuck):
                    session, start = sandbox.open(seed=0, timeout_seconds=60), time.perf_counter()
                    with contextlib.suppress(WorldFailure):
                        start = time.perf_counter()
                        session.call("spin", {}, now=NOW, timeout_seconds=deadline)
                    late.append(1000 * (time.perf_counter() - start - deadline))
                    session.close()
        return {"stuck tool killed p99": sorted(late)[min(len(late) - 1, int(0.99 * len(late)))]}

    def peers(self) -> Values:
        """`docker run` for each episode, `docker exec` for each call."""
        import docker

        from envgym.sandbox.engine import connect

        client = docker.DockerClient.__new__(docker.DockerClient)
        client.api = connect("podman" if self.backend == "podman" else "docker")
        walls, calls = [], []
        with EngineCpu() as engine, contextlib.closing(client.api):
            cpu = time.process_time()
            for work in [Work(self.tasks[0].seed, self.tasks[0].oracle)] * self.sizes.peers:
                start = time.perf_counter()
                calls += self._peer_episode(client, work)
                walls.append(time.perf_counter() - start)
            host = time.process_time() - cpu
        return {
            "peer episode wall ms": 1000 * statistics.median(walls),
            "peer call ms": statistics.median(calls),
            "peer cpu (without boxes)": 1000 * (host + engine.seconds()) / len(walls),
        }

    def _peer_episode(self, client: Any, work: Work) -> list[float]:
        container = client.containers.run("python:3.12-slim", ["sleep", "infinity"], detach=True, network_mode="none")
        try:
            container.put_archive("/", self._peer_files(work.seed))
            return [_timed(lambda call=call: _exec(container, call)) for call in work.calls]
        finally:
            container.remove(force=True)

    def _peer_files(self, seed: int) -> bytes:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive, tarfile.open(fileobj=io.BytesIO(pack(self.app))) as own:
            for member in own:
                member.name = f"peer/{member.name}"
                archive.addfile(member, own.extractfile(member))
            for name, data in (("run.py", PEER.format(tools=list(self.app.tools)).encode()), ("state.db", self.images[seed])):
                entry = tarfile.TarInfo(f"peer/{name}")
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
        return buffer.getvalue()

    def execs(self, since: float, until: float) -> float:
        """How often the engine ran `exec` in a container of ours."""
        from envgym.sandbox.engine import connect
        from envgym.sandbox.owner import OWNER_LABEL

        with contextlib.closing(connect("podman" if self.backend == "podman" else "docker")) as api:
            filters = {"type": "container", "label": OWNER_LABEL}
            events = api.events(since=int(since), until=int(until) + 1, filters=filters, decode=True)
            return float(sum(event.get("Action", "").startswith("exec_create") for event in events))


def _image(spec: Any, seed: int) -> bytes:
    from envgym.loading import load_object

    schema = (spec.root / spec.state.schema_file).read_text(encoding="utf-8")
    return prepare_image(schema, load_object(spec.state.seed, spec.root), seed)


def _open_ms(sandbox: Any, seed: int) -> float:
    start = time.perf_counter()
    session = sandbox.open(seed=seed, timeout_seconds=60)
    taken = 1000 * (time.perf_counter() - start)
    session.close()
    return taken


def _timed(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - start)


def _exec(container: Any, call: Any) -> None:
    code, said = container.exec_run(["python", "-s", "/peer/run.py", call.name, json.dumps(call.arguments), NOW])
    if code:
        raise WorldFailure("tool_crashed", said.decode(errors="replace")[-400:], stage="call")


def _until(condition: Callable[[], bool]) -> None:
    """Waits until a box is ready, and then for the machine to have nothing else of ours to do."""
    deadline = time.monotonic() + 60
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.3)


def _helper_mb(box: Any) -> float:
    """Memory of the engine's helper process for a container, MiB; 0.0 where /proc does not tell."""
    container = getattr(box.transport, "container", "?")
    for pid, name, _ in _processes():
        with contextlib.suppress(OSError, StopIteration):
            if name.startswith("containerd-shim") and container in Path(f"/proc/{pid}/cmdline").read_text():
                lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
                return int(next(line for line in lines if line.startswith("Pss:")).split()[1]) / 1024
    return 0.0


def measure(bench: Bench, say: Callable[[str], None]) -> Values:
    """Name -> median over the rounds."""
    found: dict[str, list[float]] = defaultdict(list)
    measures: list[tuple[str, Callable[[], Values]]] = [
        *((level, lambda level=level: bench.level(level)) for level in ("state", "fork", "namespaces")),
        ("reset", bench.state), ("strict", bench.strict), ("strict opens", bench.strict_opens), ("memory", bench.memory),
        ("stuck tool", bench.stuck), ("peers", bench.peers),
    ]  # fmt: skip
    since = time.time()
    for number in range(bench.sizes.rounds):
        for name, work in measures[:: -1 if number % 2 else 1]:
            say(f"round {number + 1} of {bench.sizes.rounds}: {name}")
            for key, value in work().items():
                found[key].append(value)
    values = {name: statistics.median(each) for name, each in found.items()}
    ratios = [strict / fork for strict, fork in zip(found["cpu container"], found["cpu fork"], strict=True)]
    values["CPU of strict over fork"] = statistics.median(ratios)
    values["docker exec on the tool path"] = bench.execs(since, time.time())
    return values


def table(values: Values) -> list[str]:
    rows = [f"{'figure':34}{'ours':>10}  {'goal':16}met"]
    for goal in GOALS:
        value, word = values[goal.name], "at most" if goal.is_most else "at least"
        limit = f"{word} {goal.limit:g} {goal.unit}".strip()
        rows.append(f"{goal.name:34}{value:10.4g}  {limit:16}{'yes' if goal.is_met(value) else 'NO'}")
    ours_call = values["tool overhead p50, fork"]
    peer_cpu = values["peer cpu (without boxes)"]
    rows += [
        "",
        "peers, one docker run an episode and one docker exec a call, beside ours with isolation fork:",
        f"  a call, ms                {values['peer call ms']:8.0f}{ours_call:8.2f}  {values['peer call ms'] / ours_call:.0f} x",
        f"  CPU of an episode, ms     {peer_cpu:8.0f}{values['cpu fork']:8.1f}  {peer_cpu / values['cpu fork']:.0f} x or more"
        " (theirs without what runs in the container)",
    ]
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round of a few episodes: does it run, not how fast")
    parser.add_argument("--backend", choices=["docker", "podman"], default="docker")
    parser.add_argument("--rounds", type=int, help="rounds, whose medians are shown (default: 5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    arguments = parser.parse_args(argv)
    sizes = QUICK if arguments.quick else Sizes(rounds=arguments.rounds or Sizes.rounds)
    try:
        bench = Bench(arguments.backend, sizes)
        values = measure(bench, lambda text: print(text, file=sys.stderr, flush=True))
    except EnvgymError as error:
        print(f"sandbox: {error}", file=sys.stderr)
        return 3 if isinstance(error, PrerequisiteError) else 1
    print("\n".join(table(values)))
    if not bench.engine_read:
        print("The engine's own CPU could not be read here and is left out of all CPU figures.")
    if arguments.json:
        met = {goal.name: goal.is_met(values[goal.name]) for goal in GOALS}
        arguments.json.write_text(json.dumps({"values": values, "met": met}, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
