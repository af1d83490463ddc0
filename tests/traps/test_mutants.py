"""Each mutant of tests/mutants.py still fits the code, and each trap has tests and a mutant."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
NUMBERS = set(range(1, 31))

found = importlib.util.spec_from_file_location("mutants", ROOT / "tests" / "mutants.py")
mutants = importlib.util.module_from_spec(found)
sys.modules["mutants"] = mutants  # dataclasses look up their module
found.loader.exec_module(mutants)


def test_each_breakage_finds_its_text_exactly_once():
    assert mutants.misfits() == []


def test_a_text_that_is_gone_or_stands_there_twice_is_told_with_its_trap_and_file():
    mutant = mutants.Mutant(9, "x", "T/learner.py", "old", "new")
    assert mutant.broken("an old one") == "an new one"
    for text in ("", "old old"):
        with pytest.raises(
            ValueError, match=r"trap 9 \(x\): trainer/envgym_trainer/learner.py holds [02] times"
        ):
            mutant.broken(text)


def test_all_thirty_traps_have_tests_a_breakage_and_a_line_in_the_table():
    tests = "".join(file.read_text(encoding="utf-8") for file in HERE.glob("test_traps_*.py"))
    tested = {int(number) for number in re.findall(r"mark\.trap\((\d+)\)", tests)}
    assert tested == NUMBERS
    assert {mutant.trap for mutant in mutants.MUTANTS} == NUMBERS
    table = re.findall(
        r"^\| (\d+) [^|]*\|",
        (ROOT / "docs/explanation/traps.md").read_text(encoding="utf-8"),
        flags=re.MULTILINE,
    )
    assert [int(number) for number in table] == sorted(NUMBERS)


@pytest.mark.parametrize(
    ("code", "verdict"), [(0, "SURVIVED"), (2, "NOT TESTED"), (5, "NOT TESTED"), (1, "killed by")]
)
def test_only_a_test_that_fails_kills_and_everything_else_is_reported_with_exit_code_1(
    code, verdict, monkeypatch, capsys
):
    seen = []

    def run(tree, *, trap):
        seen.append(
            "0.99 *" in (tree / "trainer/envgym_trainer/model/lora.py").read_text(encoding="utf-8")
        )
        return (code if seen[-1] else 0), "FAILED tests/x.py::test_that - assert"

    monkeypatch.setattr(mutants, "run", run)
    monkeypatch.setattr(mutants, "preload", lambda: None)
    monkeypatch.setattr(sys, "argv", ["mutants.py", "4"])
    assert mutants.main() == int(code != 1)
    said = capsys.readouterr().out
    assert seen == [False, True]  # the unbroken tree runs first
    assert verdict in said
    assert ("survivors: none" in said) == (code == 1)


def test_a_suite_that_fails_unbroken_proves_nothing(monkeypatch, capsys):
    monkeypatch.setattr(mutants, "run", lambda tree, *, trap: (1, "E   assert 1 == 2"))
    monkeypatch.setattr(mutants, "preload", lambda: None)
    monkeypatch.setattr(sys, "argv", ["mutants.py", "4"])
    assert mutants.main() == 1
    assert "the tests fail in the unbroken tree:\nE   assert 1 == 2" in capsys.readouterr().out
