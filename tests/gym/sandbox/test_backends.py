"""Every backend is one file with the same four members; users can add a backend as a file."""

import json
from typing import get_args

import pytest

from envgym.commands import main
from envgym.errors import PrerequisiteError, SpecError
from envgym.registration import make_world
from envgym.sandbox import Isolation
from envgym.sandbox.backends import AUTO, MEMBERS, find_backend, open_sandbox
from envgym.sandbox.containers.engine import connect
from envgym.sandbox.containers.images import ensure_image
from envgym.sandbox.options import SandboxOptions, backend_names
from envgym.spec.environment import load_spec
from tests.fakes.kiosk_app import KIOSK, call
from tests.fakes.shop_env import write

ENGINES = {"docker", "podman"}
BACKENDS = [
    pytest.param(name, marks=pytest.mark.docker) if name in ENGINES else name
    for name in backend_names()
]
OWN = '''
from envgym.sandbox.backends.none import InProcessSandbox


class Here:
    """Runs tools in this process, under a label of its own."""

    LEVELS = ("state",)
    WHY_NOT = {"fork": "it has one process"}

    def probe(self):
        return {"name": "here", "version": "1.0"}

    def open(self, app, options):
        sandbox = InProcessSandbox(app, options)
        sandbox.label = f"here, isolation {options.level}"
        return sandbox


LEVELS = Here.LEVELS
WHY_NOT = Here.WHY_NOT
thing = Here()


def probe():
    return None


def start(app, options):
    return thing.open(app, options)
'''


@pytest.fixture
def own(tmp_path):
    """An environment beside a file with a backend."""
    (tmp_path / "boxes.py").write_text(OWN)
    return write(tmp_path)


@pytest.fixture
def no_engine(monkeypatch, tmp_path):
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nothing.sock")
    monkeypatch.setenv("CONTAINER_HOST", f"unix://{tmp_path}/nothing.sock")


def is_available(backend) -> bool:
    try:
        backend.probe()
    except PrerequisiteError:
        return False
    return True


def need_image(name) -> None:
    """Skip the test if the engine of a backend runs but neither has nor can pull the image."""
    if name in ENGINES:
        try:
            ensure_image(connect(name), SandboxOptions().image)
        except PrerequisiteError as missing:
            pytest.skip(f"NOT TESTED: {missing}")


# --- contract ---


def test_the_folder_is_the_registry():
    assert {*backend_names()} >= {"docker", "podman", "bubblewrap", "local", "none", *AUTO}


@pytest.mark.parametrize("name", backend_names())
def test_a_backend_provides_each_level_or_gives_a_reason(name):
    backend = find_backend(name)
    assert all(hasattr(backend, member) for member in MEMBERS)
    assert {*backend.LEVELS, *backend.WHY_NOT} == {*get_args(Isolation)}
    assert not {*backend.LEVELS} & {*backend.WHY_NOT}


@pytest.mark.parametrize("name", BACKENDS)
def test_a_backend_opens_each_of_its_levels_or_names_the_remedy(name):
    backend = find_backend(name)
    if not is_available(backend):
        with pytest.raises(PrerequisiteError, match=r"sandbox\.backend="):
            backend.probe()
        with pytest.raises(PrerequisiteError, match=r"sandbox\.backend="):
            open_sandbox(KIOSK, SandboxOptions(backend=name, isolation=backend.LEVELS[0]))
        return
    need_image(name)
    hashes = set()
    for level in backend.LEVELS[
        :2
    ]:  # The others need kernel features; `sandbox doctor` tests them.
        sandbox = open_sandbox(KIOSK, SandboxOptions(backend=name, isolation=level))
        session = sandbox.open(seed=7, timeout_seconds=30)
        hashes.add(session.state_hash)
        assert call(session, "echo", text="well").text == "well"
        session.close()
        sandbox.close()
        sandbox.close()  # A second call has no effect.
    assert len(hashes) == 1


# --- a user's backend ---


@pytest.mark.parametrize("name", ["boxes.py:Here", "boxes.py:thing", "boxes.py:start"])
def test_a_file_beside_the_yaml_is_a_backend(own, name):
    spec = load_spec(own, [f"sandbox.backend={name}", "sandbox.isolation=state"])
    world = make_world(spec)
    try:
        assert world.sandbox.label == "here, isolation state"
        env = world.env()
        env.reset(seed=1)
        env.close()
    finally:
        world.close()


def test_isolation_auto_is_the_first_level_of_a_backend_without_fork(own):
    world = make_world(load_spec(own, ["sandbox.backend=boxes.py:Here"]))
    assert world.sandbox.label == "here, isolation state"
    world.close()


def test_a_module_is_a_backend(own, monkeypatch):
    monkeypatch.syspath_prepend(own.parent)
    world = make_world(load_spec(own, ["sandbox.backend=boxes:Here"]))
    assert world.sandbox.label == "here, isolation state"
    world.close()


def test_doctor_probes_a_backend_of_a_user(own, monkeypatch, capsys):
    monkeypatch.chdir(own.parent)
    assert main(["sandbox", "doctor", "--backend", "boxes.py:Here", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    (name,) = report["backends"]
    assert report["facts"][name] == {"name": "here", "version": "1.0"}
    levels = {level["name"]: level for level in report["backends"][name]}
    assert levels["state"] == {
        "name": "state",
        "possible": True,
        "reason": "here, isolation state",
    }
    assert "cannot provide isolation 'fork': it has one process. " in levels["fork"]["reason"]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("boxes.py:Hree", "no 'Hree' in boxes.py, did you mean 'Here'?"),
        ("boxes.py:InProcessSandbox", "has no 'LEVELS'. A backend needs LEVELS, WHY_NOT, probe"),
        ("absent.py:Here", "sandbox.backend: no such file: "),
    ],
)
def test_a_wrong_reference_is_an_error(own, name, told):
    text = (own.parent / "boxes.py").read_text()
    (own.parent / "boxes.py").write_text(
        text + "\n\nclass InProcessSandbox:\n    pass\n" if "InProcess" in name else text
    )
    with pytest.raises(SpecError) as caught:
        make_world(load_spec(own, [f"sandbox.backend={name}"]))
    assert told in str(caught.value)


def test_a_misspelt_name_is_answered_with_all_names():
    with pytest.raises(SpecError) as caught:
        load_spec("guess", ["sandbox.backend=dokcer"])
    assert str(caught.value) == (
        "override 'sandbox.backend=dokcer': sandbox.backend: is 'dokcer', did you mean 'docker'? "
        "Available: auto, bubblewrap, docker, local, none, podman, or 'file.py:name' for your own"
    )


def test_auto_never_ignores_an_option_of_an_engine(no_engine):
    with pytest.raises(PrerequisiteError, match="no Docker engine"):
        open_sandbox(KIOSK, SandboxOptions(runtime="runsc"))
