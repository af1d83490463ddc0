"""The server as a process: key, address, drain, and mistakes on the command line."""

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import httpx
import openai
import pytest

from envgym.commands import main
from envgym.errors import PrerequisiteError, UsageError
from envgym_trainer.commands import serve
from envgym_trainer.serving.opening import name_of
from envgym_trainer.serving.server import listen
from tests.fakes.taught_model import served

SLOW = {"model": "tiny", "prompt": [5, 6, 7], "max_tokens": 1500, "ignore_eos": True}
"""A request that takes some seconds."""


@pytest.fixture
def server():
    with served("tiny", "--key", "env:LAMP_KEY", env={"LAMP_KEY": "s3cret-value"}) as found:
        yield found


def start(url: str, body: dict, results: list) -> threading.Thread:
    """Send a request on a thread and append its response, or its error."""

    def send() -> None:
        headers = {"Authorization": "Bearer s3cret-value"}
        try:
            response = httpx.post(f"{url}/v1/completions", json=body, headers=headers, timeout=120)
            results.append(response)
        except httpx.HTTPError as error:
            results.append(error)

    thread = threading.Thread(target=send)
    thread.start()
    while "envgym_requests_in_flight 1" not in httpx.get(f"{url}/metrics").text:
        time.sleep(0.02)
    return thread


def test_a_key_is_needed_and_a_signal_drains(server):
    process, url = server
    for key in ("", "wrong", "s3cret-valuE"):
        client = openai.OpenAI(base_url=f"{url}/v1", api_key=key or "x", max_retries=0)
        with pytest.raises(openai.AuthenticationError) as caught:
            client.models.list()
        assert caught.value.code == "invalid_api_key"
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="s3cret-value", max_retries=0)
    assert client.models.list().data[0].id == "tiny"
    assert httpx.get(f"{url}/health").json() == {"status": "ok", "model": "tiny"}

    results: list = []
    running = start(url, SLOW, results)
    process.send_signal(signal.SIGTERM)
    wait_until_draining(url)
    with pytest.raises(openai.InternalServerError) as refused:
        client.completions.create(model="tiny", prompt=[5], max_tokens=1)
    assert refused.value.status_code == 503
    assert refused.value.code == "server_shutting_down"
    running.join()
    (response,) = results
    assert response.json()["usage"]["completion_tokens"] == 1500
    assert process.wait(timeout=30) == 0


def wait_until_draining(url: str) -> None:
    started = time.monotonic()
    while httpx.get(f"{url}/health").status_code != 503:
        assert time.monotonic() - started < 10
        time.sleep(0.02)


def test_a_second_interrupt_ends_at_once():
    with served("tiny") as (process, url):
        results: list = []
        running = start(url, SLOW | {"max_tokens": 2000, "n": 4}, results)
        process.send_signal(signal.SIGINT)
        wait_until_draining(url)
        process.send_signal(signal.SIGINT)
        started = time.monotonic()
        assert process.wait(timeout=30) == 130
        assert time.monotonic() - started < 10
        running.join()
        assert "Traceback" not in process.stdout.read()


def test_requests_beyond_the_limit_are_refused():
    with served("tiny", "--max-requests", "1") as (process, url):
        results: list = []
        running = start(url, SLOW, results)
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        with pytest.raises(openai.RateLimitError) as caught:
            client.completions.create(model="tiny", prompt=[5], max_tokens=1)
        assert caught.value.code == "rate_limit_exceeded"
        running.join()
        assert results[0].status_code == 200


def test_the_printed_examples_work(tmp_path):
    with served("tiny", "--name", "my model", "--max-turn-tokens", "3") as (process, url):
        lines = iter(process.stdout.readline, "")
        printed = [next(lines).rstrip("\n") for _ in range(8)]
        curl = "\n".join(printed[1:3])
        program = "\n".join(printed[4:8]) + "\n" + next(lines)
        answer = subprocess.run(curl, shell=True, capture_output=True, text=True, timeout=60)
        assert json.loads(answer.stdout)["model"] == "my model"
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip()


def test_a_port_that_is_taken_is_reported(capsys):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert main(["serve", "tiny", "--port", str(port)]) == 2
    assert f"port {port} of 127.0.0.1 is in use. Choose another one" in capsys.readouterr().err


def test_an_address_of_another_machine_is_reported():
    with pytest.raises(UsageError, match="Use an address of this machine"):
        listen("192.0.2.1", 0)
    with pytest.raises(UsageError, match=r"--host no\.such\.host\.invalid"):
        listen("no.such.host.invalid", 0)


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("runs/none", "runs/none: no such folder. Give a run"),
        ("./mine/none", "no such folder. Give a run"),
        ("org/none", "the hub cannot be reached"),
        ("tini", "did you mean 'tiny'"),
    ],
)
def test_a_target_that_is_not_there_is_reported(target, told, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main(["serve", target, "--port", "0"]) in (2, 3)
    found = capsys.readouterr().err
    assert re.search(told, found), found
    assert "Traceback" not in found


def test_a_folder_without_a_model_is_reported(tmp_path, capsys):
    assert main(["serve", str(tmp_path), "--port", "0"]) == 2
    assert "neither a run (config.yaml), nor an adapter" in capsys.readouterr().err


def test_a_changed_adapter_is_refused(lamps, tmp_path, capsys):
    copied = tmp_path / "adapter"
    shutil.copytree(lamps, copied)
    (copied / "adapter_config.json").write_text((copied / "adapter_config.json").read_text() + "\n")
    assert main(["serve", str(copied), "--port", "0"]) == 2
    assert "adapter_config.json has changed since it was written" in capsys.readouterr().err


def test_the_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "starlette", None)
    with pytest.raises(PrerequisiteError, match=r"pip install 'envgym\[serve\]'"):
        serve._need_server()


def test_a_literal_key_is_refused_and_a_missing_variable_named(capsys):
    assert main(["serve", "tiny", "--key", "sk-literal"]) == 2
    assert "takes the name of an environment variable" in capsys.readouterr().err
    assert main(["serve", "tiny", "--key", "env:NOT_SET_ANYWHERE"]) == 3
    assert "this variable is not set" in capsys.readouterr().err


def test_an_open_address_without_a_key_is_warned_of(capsys):
    serve._warn_without_key("0.0.0.0", None)
    assert "WARNING: --host 0.0.0.0 without --key" in capsys.readouterr().err
    serve._warn_without_key("127.0.0.1", None)
    serve._warn_without_key("0.0.0.0", "key")
    assert capsys.readouterr().err == ""


def test_the_name_is_that_of_the_run(tmp_path, monkeypatch):
    adapter = tmp_path / "crm" / "adapter"
    adapter.mkdir(parents=True)
    assert name_of(str(adapter)) == name_of(str(adapter.parent)) == "crm"
    monkeypatch.chdir(adapter)
    assert name_of(".") == "crm"
    assert name_of("org/model") == "org/model"
