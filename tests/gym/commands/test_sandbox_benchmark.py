"""`envgym sandbox bench`, the benchmark script, and the startup time of a new container."""

import json
import runpy
import time
from pathlib import Path

import pytest

from envgym.commands import main
from envgym.sandbox.backends import open_sandbox
from tests.fakes.kiosk_app import BUBBLEWRAP, DOCKER, KIOSK, call, failure_of, need_docker, options
from tests.fakes.shop_env import FAILS_IN_BOXES, write

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "sandbox.py"
SINGLE = [BUBBLEWRAP[2], DOCKER[3]]
"""Backends and isolation levels whose containers serve a single session."""
FOREIGN = "id: test/echo-v0\ngym: tests.fakes.echo_env:Echo-v0\ntasks: {val: 2, test: 4}\n"


def bench(capsys, *words: str) -> dict:
    assert main(["sandbox", "bench", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


# --- envgym sandbox bench ---


def test_bench_plays_as_many_episodes_as_are_asked_for_and_counts_them(tmp_path, capsys):
    report = bench(
        capsys, str(write(tmp_path)), "--backend", "local", "--sessions", "3", "--episodes", "10"
    )
    played = report["played"]
    numbers = report["numbers"]
    assert (played["episodes"], played["calls"], played["void"]) == (10, 10, 0)
    assert numbers["pool/hits"] + numbers["pool/waits"] == 10
    for operation in ("open", "reset", "call", "call_overhead", "diff", "close", "start"):
        assert 0 < numbers[f"{operation}_ms/p50"] <= numbers[f"{operation}_ms/p99"]
    assert report["box_cpu_seconds"] > 0
    assert report["cpu_ms_per_episode"] == pytest.approx(
        100 * (played["host_cpu_seconds"] + report["box_cpu_seconds"])
    )


def test_bench_shows_a_line_for_each_operation(tmp_path, capsys):
    assert (
        main(["sandbox", "bench", str(write(tmp_path)), "--backend", "none", "--episodes", "4"])
        == 0
    )
    said = capsys.readouterr().out.splitlines()
    assert {"open", "reset", "call", "call_overhead", "diff", "close"} <= {
        line.split(" ")[0] for line in said
    }
    assert "4 episodes of 1.0 calls, 8 at once" in said[1]


@pytest.mark.docker
def test_bench_tells_the_memory_of_a_container_and_of_a_session(tmp_path, capsys):
    need_docker()
    report = bench(
        capsys,
        str(write(tmp_path)),
        "--backend",
        "docker",
        "--isolation",
        "fork",
        "--episodes",
        "4",
    )
    assert "isolation fork" in report["sandbox"]
    assert 2 < report["box_mb"] < 100
    assert 0.1 < report["session_mb"] < 50


def test_bench_fails_and_names_the_failures_where_the_world_breaks(tmp_path, capsys):
    env = write(tmp_path, world=FAILS_IN_BOXES.replace("EVERY", "1"))
    assert (
        main(["sandbox", "bench", str(env), "--backend", "local", "--episodes", "8", "--json"]) == 1
    )
    report = json.loads(capsys.readouterr().out)
    assert report["played"]["void"] == report["numbers"]["failures/seed_crashed"] == 8


def test_bench_of_an_environment_without_a_sandbox_is_refused(tmp_path, capsys):
    (tmp_path / "echo.yaml").write_text(FOREIGN)
    assert main(["sandbox", "bench", str(tmp_path / "echo.yaml")]) == 2
    assert "has no envgym sandbox to measure" in capsys.readouterr().err


@pytest.mark.parametrize("number", ["0", "-1", "many"])
def test_a_number_of_sessions_that_cannot_be_is_wrong_use(number, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["sandbox", "bench", "crm", f"--sessions={number}"])
    assert ended.value.code == 2
    assert f"'{number}' is not an integer of at least 1" in capsys.readouterr().err


# --- benchmarks/sandbox.py ---


@pytest.fixture
def script(monkeypatch):
    """Namespace of the script, whose modules lie in the same folder."""
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    return runpy.run_path(str(SCRIPT))


@pytest.mark.docker
@pytest.mark.campaign
def test_the_script_prints_each_figure_with_its_goal_and_the_peers_beside(script, tmp_path, capsys):
    need_docker()
    assert script["main"](["--quick", "--json", str(tmp_path / "figures.json")]) == 0
    said = capsys.readouterr().out
    found = json.loads((tmp_path / "figures.json").read_text())
    for goal in script["GOALS"]:
        (line,) = [line for line in said.splitlines() if line.startswith(f"{goal.name}  ")]
        assert line.endswith("yes" if found["met"][goal.name] else "NO")
    assert found["values"]["docker exec on the tool path"] == 0
    assert found["values"]["peer call ms"] > found["values"]["tool overhead p50, fork"]


@pytest.mark.docker
def test_the_script_sees_an_exec_in_a_container_of_ours(script):
    need_docker()
    since = time.time()
    measured = script["Bench"]("docker", script["QUICK"])
    sandbox = open_sandbox(KIOSK, options(("docker", "fork")))
    sandbox.describe()
    before = measured.execs(since, time.time())
    transport = sandbox.pool.boxes[0].transport
    transport._api.exec_start(transport._api.exec_create(transport.container, "true"))
    assert measured.execs(since, time.time()) == before + 1
    sandbox.close()


# --- a container for a single session ---


@pytest.mark.parametrize("kind", SINGLE)
def test_a_state_that_one_box_has_built_is_handed_to_the_next(kind):
    sandbox = open_sandbox(KIOSK, options(kind))
    first = sandbox.open(seed=7, timeout_seconds=60)
    sent = sandbox.statistics.snapshot()["bytes/sent"]
    image = sandbox._known_image(7)["image"]
    second = sandbox.open(seed=7, timeout_seconds=60)
    assert sandbox.statistics.snapshot()["bytes/sent"] - sent > len(image)
    assert second.state_hash == first.state_hash
    assert call(second, "echo", text="well").text == "well"
    assert second.diff(timeout_seconds=20) == {}
    sandbox.close()


@pytest.mark.parametrize("kind", SINGLE)
def test_a_state_that_was_spoiled_on_the_way_is_never_played(kind):
    sandbox = open_sandbox(KIOSK, options(kind))
    sandbox.open(seed=7, timeout_seconds=60).close()
    sandbox.open(seed=8, timeout_seconds=60).close()
    sandbox._images.put(7, sandbox._known_image(8)["image"])
    assert failure_of(lambda: sandbox.open(seed=7, timeout_seconds=60)).kind == "state_differs"
    sandbox.close()


@pytest.mark.parametrize("kind", SINGLE)
def test_a_fresh_box_has_its_sessions_process_ready_before_the_session(kind):
    sandbox = open_sandbox(KIOSK, options(kind, pool={"boxes": 1}))
    sandbox.describe()
    (box,) = sandbox.pool.boxes

    def running() -> tuple[int, int]:
        said = box.request("ping", stage="open", timeout_seconds=20)
        return said["processes"], said["sessions"]

    processes, sessions = running()  # the session's process and a judge
    assert (processes, sessions) == (2, 0)
    session = sandbox.open(seed=7, timeout_seconds=60)
    assert running() == (2, 1)
    session.close()
    sandbox.close()
