"""Forgery test: no program of the model reaches or fakes the evidence of a hidden test.

Each attempt runs in real check boxes: a local one with two user ids, a local one whose programs get
a user namespace (for owners without root), bubblewrap, and a container.
"""

import base64
import dataclasses
import functools
import json
import os
import subprocess
import sys

import pytest

from envgym.errors import SpecError, WorldFailure
from envgym.sandbox import App, Verification
from envgym.sandbox.archive import AGENT
from envgym.sandbox.backends import open_sandbox
from envgym.sandbox.backends.local import (
    ProcessTransport,
    check_hello,
    clean_environment,
    why_not_isolated,
)
from envgym.sandbox.box.channel import Transport
from envgym.sandbox.box.checks import CheckRunner
from envgym.sandbox.statistics import Statistics
from tests.fakes import APPS
from tests.fakes.attacks import HONEST, PROGRAMS
from tests.fakes.kiosk_app import options

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="NOT TESTED: Linux only")
APP = App(APPS, ("folder/tools.py",), files="folder/world.py:lay_out")
NUMBER = 123_457
CUBE = NUMBER**3
TEST = "tests/test_hidden.py"
BOXES = [
    "local",
    pytest.param("namespaces", marks=pytest.mark.slow),
    pytest.param("bubblewrap", marks=pytest.mark.slow),
    pytest.param("docker", marks=[pytest.mark.slow, pytest.mark.docker]),
]


@pytest.fixture(scope="module", params=BOXES)
def checks(request):
    """Runner of hidden tests, for each kind of check box."""
    if request.param in ("local", "namespaces") and (problem := why_not_isolated()):
        pytest.skip(f"NOT TESTED: {problem}")
    backend = request.param.replace("namespaces", "local")
    sandbox = open_sandbox(APP, options((backend, "fork")))
    runner = sandbox.checks
    if request.param == "namespaces":
        runner = CheckRunner(
            start_without_root,
            check_hello(APP, options(("local", "fork"))),
            timeout_seconds=60,
            statistics=sandbox.statistics,
        )
    yield runner
    sandbox.close()


def start_without_root() -> ProcessTransport:
    """Start the agent of a local check box as an ordinary user, by this or the system's Python."""
    drop = ["setpriv", "--reuid", "54321", "--regid", "54321", "--clear-groups"]
    for python in (sys.executable, "/usr/bin/python3"):
        words = [*(drop if os.geteuid() == 0 else []), python]
        again = "subprocess.call([sys.executable, '-c', 'pass'])"
        trial = f"import subprocess, sys; sys.exit({again} or sys.version_info < (3, 11))"
        if subprocess.run([*words, "-c", trial], capture_output=True, check=False).returncode == 0:
            return ProcessTransport([*words, "-s", str(AGENT)], clean_environment())
    pytest.skip("NOT TESTED: no Python 3.11 that an ordinary user may run")


def tree(files: dict[str, str], links: dict[str, str] | None = None) -> dict:
    """Return final files and links as a session hands them over."""
    kinds = [("file", 0o644, files), ("link", 0o777, links or {})]
    entries = {
        name: [kind, mode, base64.b64encode(text.encode()).decode()]
        for kind, mode, texts in kinds
        for name, text in texts.items()
    }
    folders = {"/".join(name.split("/")[:n]) for name in entries for n in range(1, 9)}
    return {
        **{name: ["folder", 0o755, ""] for name in sorted(folders - {""} - entries.keys())},
        **entries,
    }


def run(
    checks: CheckRunner,
    files: dict[str, str],
    test: str,
    *,
    links: dict[str, str] | None = None,
    hidden: dict[str, str] | None = None,
    command: tuple[str, ...] = ("python", "-I", TEST),
    **more: object,
) -> Verification:
    seconds = {"timeout_seconds": 60.0, "inputs": {}} | more
    whole = {TEST: test, **(hidden or {})}
    return checks.run(tree(files, links), whole, command=command, **seconds)


# --- reading the truth ---

READ_ALL = f"""
import json, subprocess, sys
expected = [{CUBE}, "{CUBE}", "expected {CUBE}"]
paid = []
for name in json.load(open("names.json")):
    said = subprocess.run([sys.executable, "-I", name + ".py", "{NUMBER}"], capture_output=True, \
text=True, timeout=50)
    if str(expected[0]) in said.stdout.split():
        paid.append(name)
    if not said.stdout and not said.stderr:
        print("no output of", name, said.returncode)
print(json.dumps(paid))
"""


@pytest.fixture(scope="module")
def paid(checks) -> list[str]:
    """Names of the programs that print the expected number. All run in one hidden test."""
    names = ["honest program", *PROGRAMS]
    files = {f"{name}.py": text for name, text in {"honest program": HONEST, **PROGRAMS}.items()}
    files |= {"names.json": json.dumps(names)}
    found = run(checks, files, READ_ALL, hidden={"tests/expected.txt": str(CUBE)})
    assert found.exit_code == 0, found.output
    return json.loads(found.output.splitlines()[-1])


def test_an_honest_program_is_paid(paid):
    assert "honest program" in paid


@pytest.mark.parametrize("name", PROGRAMS)
def test_no_program_reads_the_truth(paid, name):
    assert name not in paid


# --- faking the result ---

PROGRAM = f"""
import subprocess, sys
said = subprocess.run([sys.executable, "program.py", "{NUMBER}"], capture_output=True, text=True)
assert said.stdout == "{CUBE}\\n", said.stdout[-99:] + said.stderr[-300:]
"""
COMPARES = f"""
import subprocess, sys
subprocess.run([sys.executable, "program.py", "{NUMBER}"], check=True)
assert open("answer.txt").read() == open("tests/expected.txt").read()
"""
ANSWERS = f"open('answer.txt', 'w').write('{CUBE}')"
LINKS = {
    "relative": "os.symlink('tests/expected.txt', 'answer.txt')",
    "absolute": "os.symlink(glob.glob('/tmp/test-*/files/tests/expected.txt')[0], 'answer.txt')",
    "guessed": "os.symlink('/proc/self/cwd/tests/expected.txt', 'answer.txt')",
    "over a folder": "os.symlink('tests', 'x'); os.symlink('x/expected.txt', 'answer.txt')",
    "into the parent": "os.symlink(f'/proc/{os.getppid()}/cwd/tests/expected.txt', 'answer.txt')",
    "own test folder": "os.mkdir('tests'); open('tests/expected.txt', 'w').close()",
    "hard link": "os.link('tests/expected.txt', 'answer.txt')",
}


@pytest.fixture(scope="module")
def linked(checks) -> dict[str, bool]:
    """Whether each way of linking the answer to the hidden file passes. All in one test."""
    test = """
import json, os, subprocess, sys
passed = {}
for name in json.load(open("names.json")):
    if os.path.lexists("answer.txt"):
        os.unlink("answer.txt")
    subprocess.run([sys.executable, name + ".py"])
    try:
        passed[name] = open("answer.txt").read() == open("tests/expected.txt").read() != ""
    except OSError as error:
        passed[name] = False
print(json.dumps(passed))
"""
    programs = {"honest": ANSWERS} | {
        name: f"import os, glob\n{code}" for name, code in LINKS.items()
    }
    files = {f"{name}.py": text for name, text in programs.items()}
    files |= {"names.json": json.dumps(list(programs))}
    found = run(checks, files, test, hidden={"tests/expected.txt": str(CUBE)})
    return json.loads(found.output.splitlines()[-1])


def test_an_honest_answer_file_equals_the_hidden_one(linked):
    assert linked["honest"]


@pytest.mark.parametrize("name", LINKS)
def test_no_link_makes_the_hidden_file_the_answer(linked, name):
    assert not linked[name]


def test_a_link_of_the_final_files_is_no_answer_either(checks):
    found = run(
        checks,
        {"program.py": "pass"},
        COMPARES,
        links={"answer.txt": "tests/expected.txt"},
        hidden={"tests/expected.txt": str(CUBE)},
    )
    assert not found.passed


IMPORTS = {
    "import": "sys.path.insert(0, '.'); import program",
    "from a package": "sys.path.insert(0, '.'); from package import inner",
    "of compiled code": "sys.path.insert(0, '.'); import compiled",
    "runpy": "import runpy; runpy.run_path('program.py')",
    "exec": "exec(compile(open('program.py').read(), 'program.py', 'exec'))",
    "importlib": (
        "import importlib.util as u; s = u.spec_from_file_location('p', 'program.py'); "
        "s.loader.exec_module(u.module_from_spec(s))"
    ),
    "pickle": "import pickle; pickle.load(open('answer.pickle', 'rb'))",
    "fork": "import os; os.fork()",
    "exec of a program": "import os; os.execv(sys.executable, ['python', 'program.py'])",
    "posix_spawn": "import os; os.posix_spawn(sys.executable, ['python', 'program.py'], {})",
}
EXITS = "import os; os._exit(0)"


@pytest.fixture(scope="module")
def refused(checks) -> dict[str, str]:
    """Error of each way to execute the model's code in the test. All in one test."""
    test = f"""
import json, sys
errors = {{}}
for name, code in {IMPORTS!r}.items():
    try:
        exec(code)
    except (ImportError, PermissionError) as error:
        errors[name] = str(error)
print(json.dumps(errors))
"""
    names = ("program.py", "package/__init__.py", "package/inner.py", "compiled.py")
    files = dict.fromkeys(names, EXITS) | {"answer.pickle": "cos\n_exit\n(I0\ntR."}
    found = run(checks, files, test)
    assert found.output, "the model's code ended the test"
    return json.loads(found.output.splitlines()[-1])


@pytest.mark.parametrize("how", IMPORTS)
def test_a_test_cannot_execute_the_models_code_and_names_the_way_out(refused, how):
    assert "a hidden test" in refused[how]


TREES = {
    "json.py beside the test": {"json.py": EXITS, "tests/json.py": EXITS},
    "subprocess.py in the work folder": {"subprocess.py": EXITS},
    "sitecustomize": {"sitecustomize.py": EXITS, "usercustomize.py": EXITS, "x.pth": "import os"},
    "a folder in place of the test": {f"{TEST}/x": EXITS},
    "python of the model": {"python": EXITS, "python3": EXITS, "bin/python": EXITS},
    "settings of the runner": {"settings.json": "{}", "hidden_test/__main__.py": EXITS},
}
ENDS = {
    "kills everything": "import os; os.kill(-1, 9)",
    "kills the test": "import os; os.kill(os.getppid(), 9)",
    "interrupts the test": "import os; [os.kill(os.getppid(), s) for s in (1, 2, 15, 6)]",
    "kills its group": "import os; os.killpg(os.getpgid(os.getppid()), 15)",
    "exits with 0": "raise SystemExit(0)",
    "fills the disk": "f = open('/tmp/big', 'wb')\nwhile True: f.write(bytes(1 << 20))",
    "fills its home": "import os\nf = open(os.environ['HOME'] + '/b', 'wb')\n"
    "while True: f.write(bytes(1 << 20))",
    "limits the test": "import resource, os; resource.prlimit(os.getppid(), 7, (3, 3))",
    "closes its streams": "import os; [os.close(n) for n in (0, 1, 2)]",
    "removes the folder": "import shutil; shutil.rmtree('.', ignore_errors=True)",
}


def test_no_file_of_the_work_folder_takes_the_place_of_the_test(checks):
    files = {path: text for each in TREES.values() for path, text in each.items()}
    test = f"import json, this{PROGRAM}"
    assert not run(checks, {**files, "program.py": "print(0)"}, test).passed
    assert run(
        checks, {**files, "program.py": HONEST}, test.replace('"program.py"', '"-I", "program.py"')
    ).passed


@pytest.mark.parametrize("name", ENDS)
def test_no_end_of_the_program_passes_or_voids_the_test(checks, name):
    assert not run(checks, {"program.py": ENDS[name]}, PROGRAM).passed


def test_the_models_own_test_does_not_count(checks):
    assert not run(checks, {TEST: EXITS, "program.py": "print(0)"}, PROGRAM).passed


def test_nothing_that_a_program_leaves_running_changes_files_afterwards(checks):
    later = "import time\nwhile True:\n    open('answer.txt', 'w').write('later'); time.sleep(0.01)"
    starts = (
        "import subprocess, sys\n"
        "open('answer.txt', 'w').write('now')\n"
        "subprocess.Popen(['setsid', sys.executable, 'later.py'], stdin=-3, stdout=-3, stderr=-3)\n"
        "import time; time.sleep(0.5)"
    )
    test = """
import subprocess, sys, time
subprocess.run([sys.executable, "program.py"], check=True)
open("answer.txt", "w").write("by the test")
time.sleep(0.5)
assert open("answer.txt").read() == "by the test"
"""
    found = run(checks, {"program.py": starts, "later.py": later}, test)
    assert found.passed, found.output


# --- what honest tests need ---


def test_inputs_are_for_programs_and_hidden_data_for_the_test(checks):
    test = """
import subprocess, sys
from pathlib import Path
assert Path(__file__).with_name("data.txt").read_text() == "hidden"
assert Path("tests/data.txt").exists()
said = subprocess.run([sys.executable, "program.py"], capture_output=True, text=True).stdout
assert said == "given False\\n", said
Path(__file__).unlink()
assert not Path(__file__).exists()
"""
    program = "import os; print(open('in.txt').read(), os.path.exists('tests/data.txt'))"
    files = {"program.py": program, "in.txt": "of the model"}
    hidden = {"tests/data.txt": "hidden"}
    found = run(checks, files, test, hidden=hidden, inputs={"in.txt": "given"})
    assert found.passed, found.output


def test_the_test_reads_and_writes_files_of_the_programs(checks):
    test = """
import os, subprocess, sys
open("in.txt", "w").write("5")
assert os.system(sys.executable + " program.py") == 0
assert open("out/result.txt").read() == "25"
assert os.stat("out/result.txt").st_mode & 0o777 == 0o600
assert open("link.txt").read() == "25"
"""
    program = (
        "import os; os.mkdir('out', 0o700); os.symlink('out/result.txt', 'link.txt')\n"
        "os.umask(0o077); open('out/result.txt', 'w').write(str(int(open('in.txt').read()) ** 2))"
    )
    found = run(checks, {"program.py": program}, test)
    assert found.passed, found.output


def test_code_and_modules_are_tests_too(checks):
    files = {"program.py": HONEST}
    code = PROGRAM + "import pathlib; assert 'assert' not in pathlib.Path('/proc/self/cmdline')"
    code += ".read_text()\n"
    assert run(checks, files, "", command=("python", "-I", "-c", code)).passed
    unit = """
import subprocess, sys, unittest
class Cube(unittest.TestCase):
    def test_cube(self):
        said = subprocess.check_output([sys.executable, "program.py", "3"])
        self.assertEqual(said, b"27\\n")
"""
    command = ("python", "-m", "unittest", "tests.test_hidden")
    assert run(checks, files, unit, command=command).passed
    assert not run(checks, {"program.py": "print(28)"}, unit, command=command).passed


@pytest.mark.parametrize(
    "command",
    [("sh", "run.sh"), ("./test",), ("python", "program.py"), ("python",), ("python", "-")],
)
def test_a_command_that_would_show_the_hidden_files_is_refused(checks, command):
    with pytest.raises(SpecError, match=r"Check\.command.*subprocess"):
        run(checks, {}, "", command=command)


def test_without_hidden_files_a_command_runs_as_the_programs_do(checks):
    run_alone = functools.partial(checks.run, tree({"a.sh": "exit 3"}), {}, {}, timeout_seconds=60)
    assert run_alone(("sh", "a.sh")).exit_code == 3
    assert run_alone(("sh", "-c", "id -u")).output != "0\n"
    found = run_alone(("python", "-c", "import os; raise SystemExit(os.getuid())"))
    assert found.exit_code == 0 or os.geteuid() != 0 or checks._start is start_without_root


class EndedAtTest:
    """Transport of a box that ends when it gets the test."""

    def __init__(self, transport: Transport):
        self._transport = transport
        self._sent = 0
        self.receive, self.last_words = transport.receive, transport.last_words
        self.kill = transport.kill

    def send(self, data: bytes) -> None:
        self._sent += 1
        if self._sent == 2:
            self.kill()
        self._transport.send(data)


def lossy(checks: CheckRunner, losses: int) -> CheckRunner:
    """Return a runner whose first boxes end when they get the test."""
    ends = iter([EndedAtTest] * losses)
    return CheckRunner(
        lambda: next(ends, lambda transport: transport)(checks._start()),
        checks._hello,
        timeout_seconds=60,
        statistics=checks._statistics,
    )


def test_a_box_that_ends_during_the_test_is_replaced_once(checks):
    assert run(lossy(checks, 1), {"program.py": HONEST}, PROGRAM).passed
    found = run(lossy(checks, 2), {"program.py": HONEST}, PROGRAM)
    assert (found.exit_code, found.passed) == (None, False)
    assert "ended its box, 2 times" in found.output


def test_a_box_that_cannot_be_started_is_a_failure_of_the_world():
    def start() -> Transport:
        raise WorldFailure("sandbox_lost", "no engine", stage="open")

    runner = CheckRunner(start, {}, timeout_seconds=1, statistics=Statistics())
    with pytest.raises(WorldFailure, match="no engine") as caught:
        runner.run(tree({}), {TEST: ""}, {}, ("python", TEST), timeout_seconds=5)
    assert caught.value.stage == "score"


def test_a_check_of_a_task_is_refused_when_it_is_made():
    from envgym import Check

    with pytest.raises(SpecError, match="would read the hidden files"):
        Check({"a.sh": "exit 0"}, ("sh", "a.sh"))
    assert dataclasses.replace(Check({}, ("sh", "a.sh"))).inputs == {}
