"""Container sandboxes under podman, whose service runs here with its own storage."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from envgym.commands import main
from envgym.errors import PrerequisiteError, WorldFailure
from envgym.sandbox.backends import SandboxOptions, open_sandbox
from envgym.sandbox.containers.create import create
from envgym.sandbox.containers.engine import connect, find_engine
from envgym.sandbox.containers.owners import RUN_LABEL, reap_orphans
from tests.fakes import ROOT
from tests.fakes.kiosk_app import KIOSK, call, need_docker, options, wait_until

pytestmark = [pytest.mark.docker, pytest.mark.campaign]
FORK = SandboxOptions(backend="podman")
START_SECONDS = 20


@pytest.fixture(scope="module")
def podman(tmp_path_factory):
    """A podman service that has python:3.12-slim, named by CONTAINER_HOST."""
    if not shutil.which("podman"):
        pytest.skip("NOT TESTED, no podman: it is not installed")
    folder = tmp_path_factory.mktemp("podman")
    environment = os.environ | {"CONTAINERS_CONF": str(configuration(folder))}
    command = ["podman", "--root", str(folder / "root"), "--runroot", str(folder / "run")]
    fetch_image(command, environment)
    with (folder / "log").open("w") as log, pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONTAINER_HOST", f"unix://{folder}/podman.sock")
        service = subprocess.Popen(
            [*command, "system", "service", "-t", "0", f"unix://{folder}/podman.sock"],
            env=environment,
            stdout=log,
            stderr=log,
        )
        try:
            wait_until_it_answers(folder / "log")
            yield
        finally:
            service.terminate()
            service.wait()
            subprocess.run(
                ["umount", folder / "root/overlay"], capture_output=True, check=False
            )  # podman mounts it onto itself
            shutil.rmtree(folder, ignore_errors=True)


def configuration(folder: Path) -> Path:
    """Write podman's configuration, with runc as runtime if it is installed.

    crun, podman's default, refuses machines that have both versions of cgroups.
    """
    path = folder / "containers.conf"
    path.write_text(
        '[engine]\ncgroup_manager="cgroupfs"\n'
        + ('runtime="runc"\n' if shutil.which("runc") else "")
    )
    return path


def fetch_image(command: list[str], environment: dict[str, str]) -> None:
    need_docker()
    api = connect()
    load = subprocess.Popen(
        [*command, "load", "-q"],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    assert load.stdin is not None
    try:
        for chunk in api.get_image("python:3.12-slim"):
            load.stdin.write(chunk)
    except BrokenPipeError:
        pass  # the log below gives the reason
    errors = load.communicate()[1].decode()
    api.close()
    if load.returncode:
        pytest.skip(f"NOT TESTED, podman cannot load an image: {errors}")


def wait_until_it_answers(log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            return connect("podman").close()
        except PrerequisiteError as error:
            if time.monotonic() > deadline:
                pytest.skip(
                    f"NOT TESTED, podman's service does not answer: {error};"
                    f" it said: {log.read_text()[-500:]}"
                )
            time.sleep(0.1)


@pytest.fixture(scope="module")
def sandbox(podman):
    sandbox = open_sandbox(KIOSK, FORK)
    yield sandbox
    sandbox.close()


@pytest.fixture
def api(podman):
    api = connect("podman")
    yield api
    api.close()


def test_the_engine_and_the_label_say_podman(api, sandbox):
    engine = find_engine("podman")
    assert (engine.name, engine.address.found) == ("podman", "CONTAINER_HOST")
    engine.api.close()
    assert sandbox.label.startswith(
        "podman (python:3.12-slim), isolation fork: no network, read-only files"
    )


def test_the_same_calls_give_the_same_bytes_as_in_a_local_process(sandbox):
    def story(sandbox) -> list:
        session = sandbox.open(seed=5, timeout_seconds=20)
        said = [call(session, "get_item", item_id=f"I{index}").text for index in range(20)]
        said += [call(session, "set_stock", item_id="I3", stock=value).text for value in (7, -7)]
        said += [call(session, "dice", kind="d20").text for _ in range(5)]
        said += [json.dumps(session.diff(timeout_seconds=20)), json.dumps(sandbox.describe())]
        session.close()
        return said

    local = open_sandbox(KIOSK, options(("local", "fork")))
    assert story(sandbox) == story(local)
    local.close()


@pytest.mark.parametrize(
    "path", ["/x", "/etc/x", "/envgym/x", "/envgym/app/kiosk/tools.py", "/envgym/agent/desk.py"]
)
def test_a_tool_can_write_neither_the_image_nor_its_own_files_nor_the_agents(session, path):
    assert call(session, "write_file", path=path).text in (
        "Permission denied",
        "Read-only file system",
    )


def test_no_network_no_rights_no_capabilities(session):
    assert call(session, "connect", host="1.1.1.1").text == "Network is unreachable"
    status = dict(
        line.split(":\t") for line in call(session, "status").text.splitlines() if ":\t" in line
    )
    assert status["Uid"].split() == ["65534"] * 4
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")


def test_a_killed_box_loses_its_session_and_the_next_open_starts_a_fresh_one(sandbox, api):
    session = sandbox.open(seed=7, timeout_seconds=20)
    api.kill(sandbox.pool.boxes[0].transport.container)
    with pytest.raises(WorldFailure, match="sandbox_lost"):
        call(session, "hang", seconds=5)
    session.close()
    assert call(sandbox.open(seed=7, timeout_seconds=30), "echo", text="back").text == "back"


OWNER = """
import sys, time
from tests.fakes.kiosk_app import KIOSK
from envgym.sandbox.containers.create import create
from envgym.sandbox.containers.engine import connect
from envgym.sandbox.backends import SandboxOptions, open_sandbox
from envgym.sandbox.containers.owners import labels, RUN_LABEL
sandbox = open_sandbox(KIOSK, SandboxOptions(backend="podman"))
session = sandbox.open(seed=7, timeout_seconds=60)
box = create(connect("podman"), SandboxOptions().image, SandboxOptions())
print(labels()[RUN_LABEL], box, flush=True)
time.sleep(600)
"""


def test_an_owner_killed_by_sigkill_leaves_only_what_it_never_started_and_gc_removes_that(
    api, capsys
):
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    run, created = process.stdout.readline().split()
    mine = {"label": f"{RUN_LABEL}={run}"}
    assert len(api.containers(all=True, filters=mine)) == 2
    process.send_signal(signal.SIGKILL)
    process.communicate()
    wait_until(lambda: [each["Id"] for each in api.containers(all=True, filters=mine)] == [created])
    assert main(["sandbox", "gc", "--backend", "podman"]) == 0
    assert f"removed {created[:12]}: " in capsys.readouterr().out
    assert not api.containers(all=True, filters=mine)


def test_a_container_that_is_gone_before_the_reaper_comes_is_no_trouble(api, monkeypatch):
    """podman may answer 500 when Docker answers 404."""
    listed = [{"Id": "0" * 64, "Labels": {"envgym.owner": "x:1:1:1"}, "Fate": "gone"}]
    monkeypatch.setattr("envgym.sandbox.containers.owners.owned", lambda api: listed)
    assert reap_orphans(api) == []


def test_a_runtime_that_podman_would_silently_ignore_is_refused(podman):
    with pytest.raises(
        PrerequisiteError,
        match=r"podman's service runs every container with '\w+' and ignores 'kata'",
    ):
        open_sandbox(KIOSK, SandboxOptions(backend="podman", runtime="kata"))


def test_a_network_is_opened_by_name(api, podman):
    api.create_network("envgym-test-podman", internal=True)
    try:
        container = create(
            api, SandboxOptions().image, SandboxOptions(network="envgym-test-podman")
        )
        assert list(api.inspect_container(container)["NetworkSettings"]["Networks"]) == [
            "envgym-test-podman"
        ]
        api.remove_container(container, force=True, v=True)
    finally:
        api.remove_network("envgym-test-podman")


def test_an_image_is_built_from_a_dockerfile(api, podman, tmp_path):
    from envgym.sandbox.containers.images import build_image
    from envgym.sandbox.options import BuildOptions

    (tmp_path / "Dockerfile").write_text("FROM python:3.12-slim\nENV WORD=built\n")
    built = build_image(api, BuildOptions(), root=tmp_path)
    assert "WORD=built" in api.inspect_image(built)["Config"]["Env"]
    (tmp_path / "Dockerfile").write_text("FROM python:3.12-slim\nRUN echo the last words; exit 7\n")
    with pytest.raises(PrerequisiteError, match=r"cannot be built \((.|\n)*\n  the last words\n"):
        build_image(api, BuildOptions(), root=tmp_path)
