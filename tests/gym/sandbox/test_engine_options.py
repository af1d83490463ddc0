"""Options of the container engine: networks and runtimes."""

import json
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from envgym.errors import SpecError
from envgym.sandbox import App
from envgym.sandbox.backends import SandboxOptions, open_sandbox
from envgym.sandbox.containers.engine import is_podman
from envgym.sandbox.containers.images import ensure_image
from tests.fakes.kiosk_app import KIOSK, call, options
from tests.gym.sandbox.engine_choice import refusal

TOOLS = '''\
import os
import resource


def interfaces() -> list[str]:
    """Network interfaces that the box has."""
    return sorted(os.listdir("/sys/class/net"))


def open_files() -> int:
    """How many files a process of the box may hold open."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
'''


@pytest.fixture
def app(tmp_path):
    (tmp_path / "tools.py").write_text(TOOLS)
    return App(tmp_path, ("tools.py",))


@pytest.fixture
def network(api):
    api.create_network("envgym-test-network", internal=True, check_duplicate=True)
    yield "envgym-test-network"
    api.remove_network("envgym-test-network")


def ask(app, tool, **more) -> tuple[str, str]:
    """Return a tool's output in a container and the label of its sandbox."""
    sandbox = open_sandbox(app, options(("docker", "fork"), **more))
    try:
        return call(sandbox.open(seed=0, timeout_seconds=20), tool).text, sandbox.label
    finally:
        sandbox.close()


@pytest.mark.docker
def test_a_box_has_no_network_but_one_that_is_named_and_the_label_says_which(app, network):
    alone = ask(app, "interfaces")
    joined = ask(app, "interfaces", network=network)
    assert json.loads(alone[0]) == ["lo"]
    assert "no network" in alone[1]
    assert len(json.loads(joined[0])) == 2
    assert f"the network '{network}' is open" in joined[1]


@pytest.mark.docker
def test_an_unknown_network_is_told_with_those_that_there_are(app, network):
    told = refusal(lambda: ask(app, "interfaces", network="crm-net"))
    assert told.startswith("sandbox.network: the engine has no network 'crm-net'; it has: ")
    assert network in told
    assert "docker network create crm-net" in told


@pytest.mark.docker
@pytest.mark.parametrize("network", ["host", "container:abc"])
def test_a_network_of_others_is_refused(app, network):
    with pytest.raises(
        SpecError, match=r"is refused. Use sandbox\.network=none, or create a network"
    ):
        ask(app, "interfaces", network=network)


@pytest.mark.docker
def test_a_runtime_is_passed_through_and_told_in_the_label(api):
    if is_podman(api):
        pytest.skip(
            "NOT TESTED: podman takes no runtime for one container;"
            " test_podman.py shows that it is refused"
        )
    name = api.info()["DefaultRuntime"]
    sandbox = open_sandbox(KIOSK, options(("docker", "fork"), runtime=name))
    sandbox.describe()
    assert (
        api.inspect_container(sandbox.pool.boxes[0].transport.container)["HostConfig"]["Runtime"]
        == name
    )
    assert f"runtime {name})" in sandbox.label
    sandbox.close()


@pytest.mark.docker
def test_a_runtime_that_the_engine_refuses_is_told_with_those_that_it_has(api, app):
    if is_podman(api):
        pytest.skip(
            "NOT TESTED: podman takes no runtime for one container;"
            " test_podman.py shows that it is refused"
        )
    told = refusal(lambda: ask(app, "interfaces", runtime="no-such-runtime"))
    assert "sandbox.runtime: the engine refused 'no-such-runtime'" in told
    assert f"Runtimes of this engine: {', '.join(sorted(api.info()['Runtimes']))}" in told


@pytest.mark.docker
def test_the_limit_of_open_files_is_the_one_that_was_asked_for(app):
    assert ask(app, "open_files")[0] == "1024"
    assert ask(app, "open_files", max_open_files=128)[0] == "128"


@pytest.mark.docker
def test_a_refused_option_leaves_no_connection_behind(api, app):
    def held() -> int:
        return len(os.listdir("/proc/self/fd"))

    ensure_image(api, SandboxOptions().image)
    refusal(lambda: ask(app, "interfaces", network="crm-net"))
    before = held()
    for _ in range(3):
        refusal(lambda: ask(app, "interfaces", network="crm-net"))
    assert held() <= before


@pytest.mark.docker
def test_requests_about_many_containers_share_connections(api):
    from docker.errors import NotFound

    def ask_about(name: str) -> None:
        with pytest.raises(NotFound):
            api.inspect_container(name)

    before = len(os.listdir("/proc/self/fd"))
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(ask_about, [f"no-such-{number}" for number in range(80)]))
    assert len(os.listdir("/proc/self/fd")) - before <= 4
