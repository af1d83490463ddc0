"""`envgym sandbox`: list and remove sandboxes, and diagnose the backends."""

import json
import subprocess
import sys
import time

import pytest

from envgym.commands import main
from envgym.commands.sandbox.containers import pid_of
from envgym.sandbox.backends import open_sandbox
from envgym.sandbox.containers.owners import OWNER_LABEL, RUN_LABEL, labels, reap_quietly
from tests.fakes.kiosk_app import KIOSK, call, options

OWNER = """
import sys, time
from envgym.sandbox.containers.create import create
from envgym.sandbox.containers.engine import connect
from envgym.sandbox.options import SandboxOptions
print(create(connect(), SandboxOptions().image, SandboxOptions()), flush=True)
time.sleep(600)
"""


@pytest.fixture
def owner(api):
    """A process that creates a container and never starts it; `.container` is the id."""
    process = subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.container = process.stdout.readline().strip()  # type: ignore[attr-defined]
    yield process
    end(process)
    process.stdout.close()
    reap_quietly(api)


@pytest.fixture
def no_engine(monkeypatch, tmp_path):
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nothing.sock")
    monkeypatch.setenv("CONTAINER_HOST", f"unix://{tmp_path}/nothing.sock")


def end(process) -> None:
    process.kill()
    process.wait()


def containers(api) -> set[str]:
    return {each["Id"] for each in api.containers(all=True)}


def run(capsys, *words: str) -> tuple[int, str]:
    code = main(["sandbox", *words])
    return code, capsys.readouterr().out


def shown(capsys, *words: str):
    return json.loads(run(capsys, *words, "--json")[1])


# --- ls ---


@pytest.mark.docker
def test_ls_shows_a_container_with_its_image_state_age_owner_and_run(api, capsys):
    sandbox = open_sandbox(KIOSK, options(("docker", "fork")))
    sandbox.describe()
    identity = sandbox.pool.boxes[0].transport.container[:12]
    (row,) = [row for row in shown(capsys, "ls") if row["id"] == identity]
    age = row.pop("age_seconds")
    image = row.pop("image")
    assert image.endswith("python:3.12-slim")  # podman puts localhost/ before it
    mine = {
        "owner_pid": pid_of(labels()[OWNER_LABEL]),
        "owner": "alive",
        "run": labels()[RUN_LABEL],
    }
    assert row == {"id": identity, "state": "running"} | mine
    assert 0 <= age < 300
    (line,) = [line for line in run(capsys, "ls")[1].splitlines() if line.startswith(identity)]
    assert "running" in line
    assert f"{row['owner_pid']} alive" in line
    sandbox.close()


@pytest.mark.docker
def test_ls_tells_a_container_whose_owner_was_killed_before_it_was_started(owner, capsys):
    def of(identity: str) -> tuple[str, str]:
        (row,) = [row for row in shown(capsys, "ls") if row["id"] == identity[:12]]
        return row["state"], row["owner"]

    assert of(owner.container) == ("created", "alive")
    end(owner)
    assert of(owner.container) == ("created", "gone")


# --- removal of leftovers, and of nothing else ---


@pytest.mark.docker
def test_gc_removes_what_a_killed_owner_left_and_says_so_and_keeps_what_the_living_have(
    api, owner, capsys
):
    sandbox = open_sandbox(KIOSK, options(("docker", "fork")))
    session = sandbox.open(seed=7, timeout_seconds=20)
    kept = shown(capsys, "gc")["kept"]
    assert owner.container[:12] in {row["id"] for row in kept}
    end(owner)
    code, said = run(capsys, "gc")
    assert code == 0
    (line,) = [
        line for line in said.splitlines() if line.startswith(f"removed {owner.container[:12]}: ")
    ]
    assert line.endswith(f"python:3.12-slim, created, owner {owner.pid} is gone")
    assert owner.container not in containers(api)
    assert call(session, "echo", text="well").text == "well"
    sandbox.close()


@pytest.mark.docker
def test_the_start_of_a_sandbox_removes_what_a_killed_owner_left(api, owner):
    end(owner)
    assert owner.container in containers(api)
    sandbox = open_sandbox(KIOSK, options(("docker", "fork")))
    assert owner.container not in containers(api)
    sandbox.close()


@pytest.mark.docker
def test_the_close_of_a_sandbox_removes_what_was_left_while_it_ran(api, owner):
    sandbox = open_sandbox(KIOSK, options(("docker", "fork")))
    assert owner.container in containers(api), "its owner lives"
    end(owner)
    sandbox.close()
    assert owner.container not in containers(api)


@pytest.mark.docker
def test_no_container_of_another_living_owner_is_removed_by_start_close_or_gc(api, owner, capsys):
    open_sandbox(KIOSK, options(("docker", "fork"))).close()
    run(capsys, "gc")
    time.sleep(0.2)
    assert owner.container in containers(api)


# --- doctor ---


def test_doctor_without_an_engine_says_what_works_and_why_the_rest_does_not(no_engine, capsys):
    report = shown(capsys, "doctor")
    assert report["facts"]["docker"]["name"] is None
    assert list(report["backends"]) == ["bubblewrap", "docker", "local", "none", "podman"]
    assert [level["name"] for level in report["backends"]["local"]] == [
        "state",
        "fork",
        "namespaces",
        "container",
    ]
    local = {level["name"]: level for level in report["backends"]["local"]}
    assert local["fork"]["possible"]
    assert "own processes, no hidden files" in local["fork"]["reason"]
    none = {level["name"]: level["possible"] for level in report["backends"]["none"]}
    assert none == {"state": True, "fork": False, "namespaces": False, "container": False}


def test_every_refusal_of_doctor_names_a_remedy(no_engine, capsys):
    report = shown(capsys, "doctor")
    refused = [
        level["reason"]
        for each in report["backends"].values()
        for level in each
        if not level["possible"]
    ]
    assert len(refused) >= 8
    for reason in refused:
        assert any(way in reason for way in ("sandbox.backend=", "sandbox.isolation=", "Start ")), (
            reason
        )


def test_doctor_fails_where_no_level_is_possible_and_succeeds_where_one_is(no_engine, capsys):
    code, said = run(capsys, "doctor", "--backend", "docker")
    assert code == 1
    assert "docker: not available. no Docker engine answers at unix://" in said
    assert run(capsys, "doctor", "--backend", "docker", "--backend", "local")[0] == 0


def test_a_misspelt_backend_is_answered_with_the_right_one(capsys):
    assert main(["sandbox", "doctor", "--backend", "dokcer"]) == 2
    assert "--backend dokcer, did you mean 'docker'?" in capsys.readouterr().err


@pytest.mark.docker
def test_doctor_tells_the_engine_and_runs_a_tool_at_each_level_that_it_calls_possible(api, capsys):
    report = shown(capsys, "doctor", "--backend", "docker")
    engine = report["facts"]["docker"]
    assert engine["name"] in ("docker", "podman")
    assert engine["version"]
    assert "://" in engine["address"]
    assert engine["found"]
    assert api.info()["DefaultRuntime"] in engine["runtimes"]
    levels = {level["name"]: level for level in report["backends"]["docker"]}
    assert levels["state"]["possible"]
    assert levels["fork"]["possible"]
    assert "no network" in levels["fork"]["reason"]


@pytest.mark.docker
def test_doctor_shows_what_is_wrong_with_an_image(api, capsys):
    code, said = run(capsys, "doctor", "--backend", "docker", "--image", "envgym-test/absent:1")
    assert code == 1
    assert "the engine has no image 'envgym-test/absent:1' and cannot pull it" in said


# --- without an engine ---


@pytest.mark.parametrize("command", ["ls", "gc"])
def test_a_missing_engine_is_exit_code_3_with_the_remedy(command, no_engine, capsys):
    assert main(["sandbox", command]) == 3
    assert "Start Docker, or podman's service" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["ls", "gc", "doctor"])
def test_the_help_of_each_command_has_a_real_example(command, capsys):
    with pytest.raises(SystemExit):
        main(["sandbox", command, "--help"])
    assert f"example:\n  envgym sandbox {command}" in capsys.readouterr().out
