"""The host's side of the sandbox without an engine: backend choice, container options, owners."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from envgym.errors import PrerequisiteError, SpecError
from envgym.sandbox import archive as parcels
from envgym.sandbox.backends import SandboxOptions, local, open_sandbox
from envgym.sandbox.containers.owners import is_gone, owner
from envgym.spec.environment import load_spec
from tests.fakes import ROOT
from tests.fakes.kiosk_app import KIOSK, call

HERE = Path(__file__).parent


@pytest.fixture
def no_engine(monkeypatch, tmp_path):
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nothing.sock")


def test_auto_without_an_engine_takes_a_local_process_and_says_why(no_engine):
    sandbox = open_sandbox(KIOSK, SandboxOptions())
    assert sandbox.label.startswith(f"local process, isolation fork: {local.ISOLATED}")
    assert "(not docker: no Docker engine" in sandbox.label
    assert call(sandbox.open(seed=7, timeout_seconds=20), "echo", text="x").text == "x"
    sandbox.close()


def test_docker_without_an_engine_is_a_missing_prerequisite_with_the_remedy(no_engine):
    with pytest.raises(
        PrerequisiteError,
        match=r"no Docker engine answers at unix://.*Start Docker, .* sandbox.backend=local",
    ):
        open_sandbox(KIOSK, SandboxOptions(backend="docker"))


def test_a_misspelt_backend_is_answered_with_the_right_one():
    with pytest.raises(SpecError, match=r"sandbox.backend: is 'dokcer', did you mean 'docker'"):
        load_spec("guess", ["sandbox.backend=dokcer"])


@pytest.mark.parametrize(
    ("backend", "level"),
    [
        ("local", "namespaces"),
        ("local", "container"),
        ("none", "fork"),
        ("bubblewrap", "namespaces"),
    ],
)
def test_a_level_that_a_backend_cannot_give_is_refused_with_the_reason_and_the_remedy(
    backend, level
):
    with pytest.raises(
        PrerequisiteError,
        match=rf"'{backend}' cannot provide isolation '{level}': .*Use sandbox.backend=.*docker",
    ):
        open_sandbox(KIOSK, SandboxOptions(backend=backend, isolation=level))


def test_tools_that_execute_code_get_a_container_or_namespaces_and_nothing_less():
    assert SandboxOptions(executes_code=True).level == "container"
    with pytest.raises(
        SpecError,
        match=r"'fork' is not safe for code written by a model "
        r".*Available: namespaces or container",
    ):
        load_spec("guess", ["sandbox.executes_code=true", "sandbox.isolation=fork"])


def test_tools_that_execute_code_are_refused_where_nothing_holds_them(no_engine, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(
        PrerequisiteError, match=r"'container' is not available here \(not docker: .*bubblewrap"
    ):
        open_sandbox(KIOSK, SandboxOptions(executes_code=True))


def test_opening_a_local_sandbox_does_not_import_the_docker_sdk():
    modules = (
        "envgym.sandbox.backends, envgym.sandbox.backends.local, envgym.sandbox.backends.docker"
    )
    program = f"import sys, {modules}; print('docker' in sys.modules)"
    assert (
        subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True
        ).stdout
        == "False\n"
    )


def test_the_agent_imports_the_standard_library_alone():
    agent = Path(parcels.AGENT)
    program = (
        f"import sys; sys.argv = ['']; import runpy; runpy.run_path({str(agent)!r},"
        " run_name='__main__'); print(*sys.modules)"
    )
    asked = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program],
        input="",
        capture_output=True,
        text=True,
        check=True,
    )
    # With stdin at its end the agent returns at once. It prints its imports to stderr.
    loaded = {name.partition(".")[0] for name in asked.stderr.split()}
    assert "envgym_agent" in loaded
    own = {"envgym_agent", "__main__", "envgym"}  # the agent makes an `envgym` with ToolError
    assert loaded - own <= set(sys.stdlib_module_names) | {"__mp_main__"}


def test_owner_labels_know_the_living_from_the_dead():
    boot, namespace, pid, started = owner().split(":")
    assert not is_gone(owner(), engine_is_local=True)
    assert is_gone(f"{boot}:{namespace}:{pid}:{started}1", engine_is_local=True), (
        "the process id was used again"
    )
    assert not is_gone(f"{boot}:1:{pid}:1", engine_is_local=True) or namespace == "1", (
        "another process namespace"
    )
    assert is_gone(f"another-boot:{namespace}:{pid}:{started}", engine_is_local=True)
    assert not is_gone(f"another-boot:{namespace}:{pid}:{started}", engine_is_local=False), (
        "perhaps another machine's"
    )
    assert not is_gone("garbage", engine_is_local=True)


def test_an_ended_process_that_nobody_waited_for_is_gone():
    boot, namespace, _, _ = owner().split(":")
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started = (
        Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[19]
        if sys.platform == "linux"
        else ""
    )
    label = f"{boot}:{namespace}:{process.pid}:{started}"
    if sys.platform == "linux":
        assert not is_gone(label, engine_is_local=True)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # a zombie from here on
    assert is_gone(label, engine_is_local=True) or sys.platform != "linux"
    process.communicate()


HIDDEN = """
import os
from envgym.sandbox.containers.owners import fate, owner
label = owner()
if child := os.fork():
    os.waitpid(child, 0)
else:
    os.setgroups([])
    os.setgid(65534)  # group 0 sees all
    os.setuid(65534)
    boot, namespace, _, _ = label.split(":")
    other = fate(f"{boot}:{namespace}:99999:1", engine_is_local=True)
    print(fate(label, engine_is_local=True), other)
"""


@pytest.mark.skipif(
    sys.platform != "linux" or os.getuid() != 0,
    reason="NOT TESTED: only root can mount a /proc that hides",
)
def test_an_owner_that_proc_hides_from_this_user_is_not_taken_for_dead():
    mount = "mount -t proc -o hidepid=2 proc /proc"  # in its own process namespace, not the host's
    command = [
        "unshare",
        "--pid",
        "--fork",
        "--mount",
        "sh",
        "-c",
        f'{mount} && exec "$0" -c "$1"',
        sys.executable,
        HIDDEN,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "Operation not permitted" in done.stderr and not done.stdout:
        pytest.skip(f"NOT TESTED: {done.stderr}")
    assert done.stdout == "unknown gone\n", done.stderr


OWNER = """
import sys, threading
from tests.fakes.kiosk_app import KIOSK, call, options
from envgym.sandbox.backends import local, open_sandbox
sandbox = open_sandbox(KIOSK, options(("local", "fork")))
sessions = [sandbox.open(seed=7, timeout_seconds=60) for _ in range(3)]
agent = sandbox.pool.boxes[0].transport
print(agent.scratch, agent.process.pid, flush=True)
for session in sessions:
    arguments = dict(args=(session, "hang", 60), kwargs=dict(seconds=60))
    threading.Thread(target=call, daemon=True, **arguments).start()
threading.Event().wait()
"""


def test_an_owner_killed_by_sigkill_leaves_no_local_process_and_no_file():
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    scratch, agent = process.stdout.readline().split()
    pids = [int(agent), *_descendants(int(agent))]
    assert len(pids) >= 4  # the agent and the three sessions
    assert Path(scratch).is_dir()
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 5
    while any(_is_running(pid) for pid in pids) or Path(scratch).exists():
        assert time.monotonic() < deadline, (
            "processes or files are left 5 s after their owner's end"
        )
        time.sleep(0.05)


def _descendants(pid: int) -> list[int]:
    """Return the processes below a process. A local box numbers them in its own namespace."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [each for child in map(int, children) for each in (child, *_descendants(child))]


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return (
        "Z"
        not in subprocess.run(
            ["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False
        ).stdout
    )
