"""Local boxes on Linux: what a tool can reach, and how a box without isolation is reported."""

import dataclasses
import json
import os
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from envgym.commands.sandbox.probe import facts
from envgym.errors import PrerequisiteError, SpecError
from envgym.sandbox import App
from envgym.sandbox.backends import local, open_sandbox
from envgym.sandbox.options import RISK, SandboxOptions
from tests.fakes.kiosk_app import KIOSK, NOW

TOOL = '''
import helper


def look(code: str) -> str:
    """Run Python code.

    Args:
        code: sets `found`.
    """
    space = {}
    exec(code, space)
    return str(space["found"])
'''
FILES = {
    "box/tools.py": TOOL,
    "box/helper.py": "",
    "box/prices.csv": "1,2",
    "box/answers.json": '{"1": "secret-4711"}',
    "tasks.py": "TRUTH = 'secret-4711'",
    "env.yaml": "secret-4711",
    ".git/config": "secret-4711",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Folder `env` with an environment and folder `home` with secrets."""
    folder = tmp_path_factory.mktemp("private")
    files = {f"env/{name}": text for name, text in FILES.items()}
    files |= {"home/.ssh/id_rsa": "secret-4711", "home/.netrc": "secret-4711"}
    files |= {"home/notes.txt": "open"}
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.fixture(scope="module")
def look(place):
    """Function that runs code in a tool of a local box and returns its `found`."""
    if problem := local.why_not_isolated():
        pytest.skip(f"NOT TESTED: {problem}")
    app = App(place / "env", ("box/tools.py",), hidden=("tasks.py", "env.yaml"))
    app = dataclasses.replace(app, extra_files=("box/prices.csv",))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(place / "home"))
        patch.setenv("MY_API_KEY", "secret-4711")
        sandbox = open_sandbox(app, SandboxOptions(backend="local"))
        session = sandbox.open(seed=1, timeout_seconds=60)
        call = {"now": NOW, "timeout_seconds": 60}
        yield lambda code: session.call("look", {"code": code}, **call).text
        sandbox.close()


SEARCH = """
import contextlib, glob, os
found = []
for path in {paths}:
    for folder, _, names in os.walk(path) if os.path.isdir(path) else [(".", [], [path])]:
        for name in names:
            with contextlib.suppress(OSError):
                fd = os.open(os.path.join(folder, name), os.O_RDONLY | os.O_NONBLOCK)
                with open(fd, "rb") as file:
                    if b"secret-4711" in file.read(1 << 20):
                        found.append(os.path.join(folder, name))
"""


@pytest.mark.parametrize(
    "paths",
    [
        "glob.glob('/proc/[0-9]*/environ')",
        "glob.glob('/proc/[0-9]*/cmdline')",
        "[ENV]",
        "glob.glob('/proc/[0-9]*/cwd/')",
        "glob.glob('/proc/[0-9]*/root' + ENV)",
        "[HOME + '/.ssh', HOME + '/.netrc']",
        "['/dev/shm']",
    ],
)
def test_a_tool_finds_neither_the_callers_secrets_nor_the_truth(look, place, paths, tmp_path):
    paths = paths.replace("ENV", repr(str(place / "env"))).replace("HOME", repr(f"{place}/home"))
    shared = Path("/dev/shm") / f"envgym-test-{os.getpid()}"
    shared.write_text("secret-4711")
    try:
        assert look(SEARCH.format(paths=paths)) == "[]"
    finally:
        shared.unlink()


def test_the_search_finds_the_secrets_outside_of_a_box(place):
    space: dict = {}
    exec(SEARCH.format(paths=[str(place)]), space)
    assert len(space["found"]) == 6


def test_a_box_holds_the_files_of_its_list_at_their_places(look, place):
    code = f"import os; found = sorted(os.listdir({str(place / 'env' / 'box')!r}))"
    assert look(code) == "['helper.py', 'prices.csv', 'tools.py']"
    assert look(f"found = open({str(place / 'home' / 'notes.txt')!r}).read()") == "open"


@pytest.mark.parametrize(
    "code",
    [
        "os.kill(CALLER, 0)",
        "os.listdir(f'/proc/{CALLER}/fd')",
        "check(libc.umount2(ENV.encode(), 2))",
        "check(libc.mount(b'none', b'/mnt', b'tmpfs', 0, None))",
        "check(libc.ptrace(16, os.getppid(), 0, 0))",
        "os.setuid(12345 if os.getuid() == 0 else 0)",
    ],
)
def test_a_tool_cannot_reach_the_caller_or_uncover_its_files(look, place, code):
    whole = f"""
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
ENV = {str(place / "env")!r}
CALLER = {os.getpid()}
def check(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")
try:
    {code}
    found = "done"
except OSError as error:
    found = "refused"
"""
    assert look(whole) == "refused"


def test_a_tool_has_no_capabilities(look):
    lines = "[x for x in open('/proc/self/status') if x.startswith(('CapEff', 'CapPrm', 'CapBnd'))]"
    code = f"found = {{x.split()[1] for x in {lines}}}"
    assert set(eval(look(code))) <= {"0" * 16}


# --- where the kernel refuses ---


@pytest.fixture
def refused(monkeypatch):
    monkeypatch.setattr(local, "why_not_isolated", lambda: "unshare: Operation not permitted")


def test_a_box_that_cannot_isolate_itself_says_so_in_label_and_doctor(refused):
    sandbox = open_sandbox(KIOSK, SandboxOptions(backend="local"))
    sandbox.close()
    said = "not isolated: can read the caller's files and environment"
    assert said in sandbox.label
    assert "unshare: Operation not permitted" in sandbox.label
    assert facts("local")["isolation"] == said


def test_a_hidden_test_is_refused_where_nothing_separates_it(refused, place):
    app = App(place / "env", ("box/tools.py",))
    sandbox = open_sandbox(app, SandboxOptions(backend="local"))
    with pytest.raises(PrerequisiteError, match=r"in a local process: unshare.*accept_risk"):
        sandbox.checks.run({}, {"t.py": ""}, {}, ("python", "t.py"), timeout_seconds=30)
    sandbox.close()


def test_accepted_words_permit_it_and_run_the_test(refused, place):
    app = App(place / "env", ("box/tools.py",))
    options = SandboxOptions(backend="local", accept_risk=RISK)
    sandbox = open_sandbox(app, options)
    found = sandbox.checks.run({}, {"t.py": "1 / 0"}, {}, ("python", "t.py"), timeout_seconds=30)
    assert found.exit_code == 1
    assert "ZeroDivisionError" in found.output
    sandbox.close()


# --- tools that run code of the model ---


@pytest.mark.parametrize("backend", ["local", "none"])
def test_code_of_the_model_is_refused_unless_the_risk_is_accepted_in_words(backend):
    options = {"backend": backend, "executes_code": True}
    with pytest.raises(PrerequisiteError, match=rf"accept the risk in words.*{RISK}"):
        open_sandbox(KIOSK, SandboxOptions(**options))
    sandbox = open_sandbox(KIOSK, SandboxOptions(**options, accept_risk=RISK))
    assert sandbox.label.endswith(f"accepted: {RISK}")
    sandbox.close()


@pytest.mark.parametrize("words", ["yes", "true", "The model's code runs as my user", " "])
def test_other_words_accept_nothing(words):
    with pytest.raises(ValidationError, match="accept_risk"):
        SandboxOptions(accept_risk=words)


def test_a_level_without_walls_is_refused_for_code():
    with pytest.raises(ValidationError, match="not safe for code"):
        SandboxOptions(backend="local", isolation="fork", executes_code=True)


@pytest.mark.skipif(sys.platform != "linux", reason="NOT TESTED: Linux only")
def test_a_missing_file_of_the_list_is_named(tmp_path):
    (tmp_path / "tools.py").write_text(TOOL.replace("import helper", ""))
    app = App(tmp_path, ("tools.py",), extra_files=("data.json",))
    with pytest.raises(SpecError, match=r"data\.json.*matches no file"):
        open_sandbox(app, SandboxOptions(backend="local"))
    (tmp_path / "data.json").write_text(json.dumps(1))
    open_sandbox(app, SandboxOptions(backend="local")).close()


@pytest.mark.parametrize("place", ["when imported", "when called"])
def test_a_tool_that_misses_a_data_file_beside_it_names_the_list(tmp_path, place):
    reads = "open(__file__.replace('tools.py', 'prices.csv')).read()"
    text = TOOL.replace("import helper", f"X = {reads}" if place == "when imported" else "")
    (tmp_path / "tools.py").write_text(
        text.replace("    space = {}", f"    {reads}\n    space = {{}}")
    )
    (tmp_path / "prices.csv").write_text("1")
    app = App(tmp_path, ("tools.py",))
    if local.why_not_isolated():
        pytest.skip("NOT TESTED: a box without isolation sees the file")
    sandbox = open_sandbox(app, SandboxOptions(backend="local"))
    try:
        session = sandbox.open(seed=1, timeout_seconds=60)
        said = session.call("look", {"code": "found = 1"}, now=NOW, timeout_seconds=60)
        message = said.text + said.fault
    except Exception as error:
        message = str(error)
    finally:
        sandbox.close()
    assert "prices.csv is not in the box" in message
    assert "sandbox.files" in message
