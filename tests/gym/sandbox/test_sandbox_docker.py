"""Restrictions on tools in a container, and cleanup after the owner ends."""

import json
import signal
import subprocess
import sys

import pytest

from envgym.errors import PrerequisiteError, WorldFailure
from envgym.sandbox.backends import open_sandbox
from envgym.sandbox.containers.engine import is_podman
from envgym.sandbox.containers.owners import OWNER_LABEL, RUN_LABEL, labels, owner, reap_orphans
from tests.fakes import ROOT
from tests.fakes.kiosk_app import KIOSK, call, options, wait_until

pytestmark = pytest.mark.docker
FORK = ("docker", "fork")


@pytest.fixture(scope="module")
def sandbox():
    sandbox = open_sandbox(KIOSK, options(FORK, memory_mb=128, tmpfs_mb=8, max_processes=64))
    yield sandbox
    sandbox.close()


def envgym_containers(api) -> list[dict]:
    return api.containers(all=True, filters={"label": OWNER_LABEL})


# --- restrictions seen from inside ---


def test_no_network(session):
    result = call(session, "connect", host="1.1.1.1")
    assert (result.ok, result.text) == (False, "Network is unreachable")


@pytest.mark.parametrize("path", ["/x", "/etc/x", "/var/x", "/root/x", "/dev/shm/../x"])
def test_the_file_system_is_read_only(session, path):
    result = call(session, "write_file", path=path)
    assert not result.ok
    assert result.text in ("Read-only file system", "Permission denied")


@pytest.mark.parametrize(
    "path", ["/envgym/x", "/envgym/app/kiosk/tools.py", "/envgym/agent/desk.py"]
)
def test_a_tool_cannot_change_its_own_files_or_the_agents(session, path):
    assert call(session, "write_file", path=path).text in (
        "Permission denied",
        "Read-only file system",
    )


def test_there_is_a_small_tmp(session):
    assert call(session, "write_file", path="/tmp/x").text == "written"


def test_no_rights_no_capabilities_no_new_ones(session):
    status = dict(
        line.split(":\t") for line in call(session, "status").text.splitlines() if ":\t" in line
    )
    assert status["Uid"].split() == ["65534"] * 4
    assert status["Gid"].split() == ["65534"] * 4
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == int(status["CapPrm"], 16) == 0
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"


def test_no_variable_of_the_owner_is_in_the_box(session, monkeypatch):
    environment = json.loads(call(session, "environment").text)
    assert environment["TZ"] == "UTC"
    assert not {"USER", "DOCKER_HOST", "PYTEST_CURRENT_TEST"} & set(environment)


def test_a_tool_that_eats_all_memory_ends_its_session_alone(sandbox, session):
    greedy = sandbox.open(seed=7, timeout_seconds=20)
    with pytest.raises(
        WorldFailure,
        match=r"out_of_memory in call: the session's process ended: killed for want of memory",
    ):
        call(greedy, "grab_memory", megabytes=512)
    assert call(session, "echo", text="well").text == "well"


def test_a_full_box_says_so_and_keeps_serving(api):
    sandbox = open_sandbox(KIOSK, options(FORK, max_processes=16, pool={"boxes": 1}))
    try:
        # The agent and its judge make 16.
        sessions = [sandbox.open(seed=7, timeout_seconds=20) for _ in range(14)]
        with pytest.raises(
            WorldFailure,
            match="sandbox_full in open: no process is left in this box, which has 14 sessions",
        ):
            sandbox.open(seed=7, timeout_seconds=1)
        assert call(sessions[0], "echo", text="well").text == "well"
    finally:
        sandbox.close()


def test_the_engine_is_told_all_limits(api, sandbox, session):
    if is_podman(api):
        pytest.skip(
            "NOT TESTED: podman shows them in other words; test_podman.py proves them from inside"
        )
    container = api.inspect_container(sandbox.pool.boxes[0].transport.container)
    limits = container["HostConfig"]
    assert limits["NetworkMode"] == "none"
    assert (
        limits["ReadonlyRootfs"] is limits["AutoRemove"] is container["Config"]["StdinOnce"] is True
    )
    assert limits["CapDrop"] == ["ALL"]
    assert limits["SecurityOpt"] == ["no-new-privileges:true"]
    assert limits["Memory"] == limits["MemorySwap"] == 128 * 2**20
    assert (limits["NanoCpus"], limits["PidsLimit"]) == (10**9, 64)
    assert limits["LogConfig"]["Type"] == "none"
    assert limits["Binds"] is None
    assert container["Config"]["Labels"] == labels() | container["Config"]["Labels"]


def test_the_same_calls_give_the_same_bytes_as_in_a_local_process():
    def story(kind) -> list:
        sandbox = open_sandbox(KIOSK, options(kind))
        session = sandbox.open(seed=5, timeout_seconds=20)
        said = [call(session, "get_item", item_id=f"I{index}").text for index in range(20)]
        said += [call(session, "set_stock", item_id="I3", stock=value).text for value in (7, -7)]
        said += [call(session, "dice", kind="d20").text for _ in range(5)]
        said += [json.dumps(session.diff(timeout_seconds=20)), json.dumps(sandbox.describe())]
        sandbox.close()
        return said

    assert story(FORK) == story(("local", "fork"))


# --- nothing is left behind ---


def test_closing_removes_the_container_and_its_volume(api):
    sandbox = open_sandbox(KIOSK, options(FORK))
    sandbox.describe()
    container = api.inspect_container(sandbox.pool.boxes[0].transport.container)
    volume = container["Mounts"][0]["Name"]
    sandbox.close()
    wait_until(lambda: container["Id"] not in {each["Id"] for each in api.containers(all=True)})
    wait_until(lambda: volume not in {each["Name"] for each in api.volumes()["Volumes"] or []})


OWNER = """
import sys, threading
from tests.fakes.kiosk_app import KIOSK, call, options
from envgym.sandbox.containers.engine import is_podman
from envgym.sandbox.backends import open_sandbox
from envgym.sandbox.containers.owners import labels, RUN_LABEL
sandbox = open_sandbox(KIOSK, options(("docker", sys.argv[1])))
sessions = [sandbox.open(seed=7, timeout_seconds=60) for _ in range(4)]
if sys.argv[1] == "fork":
    for session in sessions:
        threading.Thread(target=call, args=(session, "hang_with_child", 60), daemon=True).start()
print(labels()[RUN_LABEL], flush=True)
threading.Event().wait()
"""


@pytest.mark.parametrize("isolation", ["fork", "state"])
def test_an_owner_killed_by_sigkill_leaves_no_container(api, isolation):
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER, isolation], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    run = process.stdout.readline().strip()
    mine = {"label": f"{RUN_LABEL}={run}"}
    assert len(api.containers(filters=mine)) == 1
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    wait_until(lambda: not api.containers(all=True, filters=mine))


def test_a_container_whose_owner_died_before_starting_it_is_reaped_and_others_are_not(
    api, sandbox, session
):
    boot, namespace, _, _ = owner().split(":")
    dead = subprocess.Popen(["true"])
    dead.wait()
    orphan = api.create_container(
        "python:3.12-slim", ["true"], labels={OWNER_LABEL: f"{boot}:{namespace}:{dead.pid}:1"}
    )["Id"]
    mine = api.create_container("python:3.12-slim", ["true"], labels=labels())["Id"]
    try:
        reap_orphans(api)  # or another envgym process was faster: each sandbox start reaps
        left = {each["Id"] for each in api.containers(all=True)}
        assert orphan not in left
        assert mine in left
        assert call(session, "echo", text="well").text == "well"
    finally:
        api.remove_container(mine, force=True)


# --- missing prerequisites are errors that name the fix ---


def test_an_image_that_is_neither_there_nor_to_be_had_is_a_missing_prerequisite():
    with pytest.raises(
        PrerequisiteError,
        match=r"no image 'envgym-test/absent:1' and cannot pull it .*sandbox.backend=local",
    ):
        open_sandbox(KIOSK, options(FORK, image="envgym-test/absent:1"))


def test_an_image_without_python_is_a_missing_prerequisite(api, monkeypatch):
    from envgym.sandbox.containers import sandbox as backend

    create = backend.create

    def without_python(api, image, options, **more):
        monkeypatch.setattr(backend, "HOME", "/envgym")
        kept = api.create_container
        monkeypatch.setattr(
            api,
            "create_container",
            lambda *a, **k: kept(*a, **k | {"entrypoint": ["no-python-here"]}),
        )
        return create(api, image, options, **more)

    monkeypatch.setattr(backend, "create", without_python)
    sandbox = open_sandbox(KIOSK, options(FORK))
    with pytest.raises(
        PrerequisiteError,
        match=r"the sandbox does not start \(\w+ \(python:3.12-slim\)(.|\n)*no-python-here",
    ):
        sandbox.describe()
    sandbox.close()
