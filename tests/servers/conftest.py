"""Real servers for the tests, or a skip with the reason."""

import contextlib
import os
import shlex
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request

import pytest

from tests.servers.environments import Unavailable, llama_cpp_python, vllm_command

START_SECONDS = 420


def pytest_collection_modifyitems(items):
    for item in items:
        if "servers" in item.keywords:
            item.add_marker(pytest.mark.timeout(1800))


@pytest.fixture(scope="session")
def vllm():
    """Return the executable of vLLM's CPU build."""
    with _or_skip():
        return vllm_command()


@pytest.fixture(scope="session")
def llama_cpp():
    """Return a Python that has llama.cpp's server."""
    with _or_skip():
        return llama_cpp_python()


@contextlib.contextmanager
def _or_skip():
    try:
        yield
    except Unavailable as error:
        pytest.skip(f"NOT TESTED: {error}")


@pytest.fixture
def serve(tmp_path):
    """Return a function that starts a command as a server and returns its address.

    The command gets `--port N`. Its process group ends with the test.
    """
    started = []

    def start(command, **environment):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        log = tmp_path / f"server.{port}.log"
        line = [*(shlex.split(command) if isinstance(command, str) else command)]
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*map(str, line), "--port", str(port)],
                env={**_environment(), **environment},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=tmp_path,
            )
        started.append(process)
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + START_SECONDS
        while not _answers(f"{url}/health"):
            said = log.read_text(errors="replace")[-2000:]
            assert process.poll() is None, said
            assert time.monotonic() < deadline, said
            time.sleep(0.5)
        return url

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _environment():
    own = {name: text for name, text in os.environ.items() if not name.startswith("PYTHON")}
    return {
        **own,
        "VLLM_TARGET_DEVICE": "cpu",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }


def _answers(url):
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False
