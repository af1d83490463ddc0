"""Choice of the container engine: the order of candidates, and errors for an unavailable choice."""

import json
import socket

import pytest

from envgym.sandbox.backends import SandboxOptions, open_sandbox
from envgym.sandbox.containers import addresses
from envgym.sandbox.containers.engine import connect, find_engine
from tests.fakes.kiosk_app import KIOSK, need_docker
from tests.gym.sandbox.engine_choice import BUNDLES, VARIABLES, add_context, refusal


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


def where(backend="docker") -> list[tuple[str, str]]:
    return [(address.url, address.found) for address in addresses.addresses(backend)]


def silent_socket(path) -> str:
    """Create a socket file without a listener."""
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(str(path))
    return f"unix://{path}"


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


# --- options of the engine ---
