"""What honest hidden tests need: files, inputs, kinds of commands, and lost boxes."""

import functools
import os
import sys

import pytest

from envgym.errors import SpecError, WorldFailure
from envgym.sandbox.box.channel import Transport
from envgym.sandbox.box.checks import CheckRunner
from envgym.sandbox.statistics import Statistics
from tests.fakes.attacks import HONEST
from tests.fakes.check_boxes import PROGRAM, TEST, checks, run, start_without_root, tree

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="NOT TESTED: Linux only")
__all__ = ["checks"]  # a fixture


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
