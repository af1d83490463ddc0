"""TLS contexts of the container engine."""

import http.server
import json
import shutil
import ssl
import subprocess
import threading

import pytest

from envgym.sandbox.containers.engine import connect, find_engine
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
