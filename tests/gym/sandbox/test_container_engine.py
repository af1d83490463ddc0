"""Choice of the container engine, its options, and errors that name the fix."""

import hashlib
import http.server
import json
import os
import shutil
import socket
import ssl
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from envgym.errors import PrerequisiteError, SpecError
from envgym.sandbox import App
from envgym.sandbox.backends import SandboxOptions, open_sandbox
from envgym.sandbox.containers import addresses
from envgym.sandbox.containers.engine import connect, find_engine, is_podman
from envgym.sandbox.containers.images import ensure_image
from tests.fakes.kiosk_app import KIOSK, call, need_docker, options

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

VARIABLES = (
    "DOCKER_HOST",
    "DOCKER_CONTEXT",
    "DOCKER_CONFIG",
    "DOCKER_TLS_VERIFY",
    "DOCKER_CERT_PATH",
    "CONTAINER_HOST",
)
BUNDLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


@pytest.fixture
def bare(monkeypatch, tmp_path):
    """A user without a chosen engine: no variable, no context, and folders without sockets."""
    for name in (*VARIABLES, *BUNDLES):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    (tmp_path / "run/podman").mkdir(parents=True)
    return tmp_path


@pytest.fixture
def contexts(bare, monkeypatch):
    """A folder of Docker contexts with `far`, which points at tcp://far.example:2375."""
    (bare / ".docker").mkdir()
    (bare / ".docker/config.json").write_text("{}")
    add_context("far", "tcp://far.example:2375")
    return bare / ".docker"


def add_context(name: str, host: str, **tls: Path) -> None:
    """Write a context as `docker context create` does; `tls` holds the files ca, cert and key."""
    folder = Path(os.environ["HOME"]) / ".docker/contexts"
    key = hashlib.sha256(name.encode()).hexdigest()
    endpoint = {"Host": host, "SkipTLSVerify": False}
    (folder / "meta" / key).mkdir(parents=True)
    (folder / "meta" / key / "meta.json").write_text(
        json.dumps({"Name": name, "Metadata": {}, "Endpoints": {"docker": endpoint}})
    )
    (folder / "tls" / key / "docker").mkdir(parents=True)
    for role, file in tls.items():
        shutil.copy(file, folder / "tls" / key / "docker" / f"{role}.pem")


def where(backend="docker") -> list[tuple[str, str]]:
    return [(address.url, address.found) for address in addresses.addresses(backend)]


def silent_socket(path) -> str:
    """Create a socket file without a listener."""
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(str(path))
    return f"unix://{path}"


def refusal(work) -> str:
    with pytest.raises(PrerequisiteError) as caught:
        work()
    return str(caught.value)


# --- order of candidates ---


def test_docker_host_goes_before_any_context(contexts, monkeypatch):
    monkeypatch.setenv("DOCKER_CONTEXT", "far")
    monkeypatch.setenv("DOCKER_HOST", "tcp://near.example:2375")
    assert where() == [("tcp://near.example:2375", "DOCKER_HOST")]


def test_the_current_context_goes_before_the_usual_sockets(contexts):
    (contexts / "config.json").write_text(json.dumps({"currentContext": "far"}))
    assert where() == [("tcp://far.example:2375", "Docker context 'far'")]


def test_docker_context_goes_before_the_current_one(contexts, monkeypatch):
    add_context("farther", "tcp://farther.example:2375")
    (contexts / "config.json").write_text(json.dumps({"currentContext": "far"}))
    monkeypatch.setenv("DOCKER_CONTEXT", "farther")
    assert where() == [("tcp://farther.example:2375", "Docker context 'farther'")]
    monkeypatch.setenv("DOCKER_CONTEXT", "default")
    assert all("usual socket" in found for _, found in where())


def test_without_a_choice_dockers_sockets_come_before_podmans(bare):
    docker = silent_socket(bare / "run/docker.sock")
    podman = silent_socket(bare / "run/podman/podman.sock")
    urls = [url for url, _ in where()]
    assert urls.index(docker) < urls.index(podman)
    assert (podman, "the usual socket of podman") in where("podman")
    assert docker not in [url for url, _ in where("podman")]


def test_podman_takes_the_address_of_its_own_variable(bare, monkeypatch):
    monkeypatch.setenv("CONTAINER_HOST", "unix:///somewhere/podman.sock")
    monkeypatch.setenv("DOCKER_HOST", "tcp://near.example:2375")
    assert where("podman") == [("unix:///somewhere/podman.sock", "CONTAINER_HOST")]


@pytest.mark.docker
def test_a_usual_socket_that_does_not_answer_is_passed_over(tmp_path, monkeypatch):
    need_docker()
    real = connect_url()
    silent = silent_socket(tmp_path / "docker.sock")
    listed = [addresses.Address(silent, "first"), addresses.Address(real, "second")]
    monkeypatch.setattr("envgym.sandbox.containers.engine.addresses", lambda backend: listed)
    engine = find_engine()
    assert engine.address.found == "second"
    engine.api.close()


def connect_url() -> str:
    found = find_engine()
    found.api.close()
    return found.address.url


# --- an unavailable choice is an error and never replaced ---


def test_a_chosen_engine_that_is_silent_is_told_with_all_ways_out(contexts, monkeypatch):
    add_context("asleep", silent_socket(contexts / "asleep.sock"))
    monkeypatch.setenv("DOCKER_CONTEXT", "asleep")
    told = refusal(connect)
    assert "no Docker engine answers at unix://" in told
    assert "(Docker context 'asleep': " in told
    assert "usual socket" not in told
    assert (
        "Start Docker, or podman's service (systemctl --user start podman.socket),"
        " or run without it: sandbox.backend=local" in told
    )


def test_an_unknown_context_is_told_with_the_remedy(contexts, monkeypatch):
    monkeypatch.setenv("DOCKER_CONTEXT", "fra")
    assert refusal(connect).startswith(
        "there is no Docker context 'fra'. List contexts with `docker context ls`,"
        " go back with `docker"
    )


def test_contexts_that_the_sdk_cannot_find_for_want_of_a_config_file_are_told_so(
    contexts, monkeypatch
):
    (contexts / "config.json").unlink()
    monkeypatch.setenv("DOCKER_CONTEXT", "far")
    assert f"({contexts}/config.json is missing; without it no context can be found)" in refusal(
        connect
    )


def test_a_damaged_context_is_told(contexts, monkeypatch):
    next((contexts / "contexts/meta").rglob("meta.json")).write_text("{")
    monkeypatch.setenv("DOCKER_CONTEXT", "far")
    assert refusal(connect).startswith("the Docker context 'far' cannot be read (")


def test_tls_files_that_are_missing_are_told(bare, monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", "tcp://near.example:2376")
    monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
    monkeypatch.setenv("DOCKER_CERT_PATH", str(bare))
    assert "DOCKER_HOST: its TLS files cannot be used" in refusal(connect)
    assert "Correct DOCKER_CERT_PATH" in refusal(connect)


def test_no_podman_is_told_with_the_command_that_starts_it(bare):
    if where("podman"):
        pytest.skip("NOT TESTED: this machine has a socket of podman")
    told = refusal(lambda: open_sandbox(KIOSK, SandboxOptions(backend="podman")))
    assert told.startswith(
        "no podman engine: no socket of podman was found."
        " Start its service: systemctl --user start podman.socket"
    )
    assert "podman system service" in told
    assert "sandbox.backend=local" in told


@pytest.mark.docker
def test_docker_is_not_taken_for_podman(monkeypatch):
    need_docker()
    monkeypatch.setenv("CONTAINER_HOST", connect_url())
    if find_engine().name == "podman":
        pytest.skip("NOT TESTED: the engine here is podman")
    assert (
        "is Docker, not podman. Use sandbox.backend=docker, or start podman's service"
        in refusal(lambda: connect("podman"))
    )


@pytest.mark.parametrize(
    "asked", [{"network": "crm"}, {"runtime": "runsc"}, {"build": {"context": "."}}], ids=str
)
def test_what_an_engine_alone_can_give_is_never_left_out_for_want_of_one(asked, bare, monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", f"unix://{bare}/nothing.sock")
    assert "no Docker engine answers" in refusal(
        lambda: open_sandbox(KIOSK, SandboxOptions(**asked))
    )


# --- TLS contexts ---


class Version(http.server.BaseHTTPRequestHandler):
    """HTTP handler with enough of an engine's API to accept a connection."""

    def do_GET(self):
        body = json.dumps({"ApiVersion": "1.41", "Version": "1.2.3", "Components": []}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def certificate(tmp_path):
    """A self-signed certificate for 127.0.0.1 and its key."""
    if not shutil.which("openssl"):
        pytest.skip("NOT TESTED: no openssl to make certificates with")
    certificate = tmp_path / "cert.pem"
    key = tmp_path / "key.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=127.0.0.1",
    ]
    command += [
        "-addext",
        "subjectAltName=IP:127.0.0.1",
        "-keyout",
        str(key),
        "-out",
        str(certificate),
    ]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key


@pytest.fixture
def guarded(certificate):
    """Address of a TLS engine that accepts only clients with that certificate."""
    settings = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    settings.load_cert_chain(*certificate)
    settings.load_verify_locations(certificate[0])
    settings.verify_mode = ssl.CERT_REQUIRED
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Version) as server:
        server.socket = settings.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"tcp://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_tls_context_shows_its_certificate_and_checks_the_engines(
    contexts, certificate, guarded, monkeypatch
):
    cert, key = certificate
    add_context("safe", guarded, ca=cert, cert=cert, key=key)
    monkeypatch.setenv("DOCKER_CONTEXT", "safe")
    engine = find_engine()
    assert (engine.version, engine.address.found) == ("1.2.3", "Docker context 'safe'")
    engine.api.close()
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", ssl.get_default_verify_paths().openssl_cafile)
    assert "REQUESTS_CA_BUNDLE is set and overrides the engine's CA, unset it" in refusal(connect)


def test_without_the_contexts_certificate_the_same_engine_does_not_answer(
    contexts, guarded, monkeypatch
):
    add_context("bare", guarded)
    monkeypatch.setenv("DOCKER_CONTEXT", "bare")
    assert f"no Docker engine answers at {guarded} (Docker context 'bare'" in refusal(connect)


# --- options of the engine ---


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
