"""Each mutant of tests/mutants.py still fits the code, and each trap has tests and a mutant."""

import re
import sys
from pathlib import Path

import pytest

from tests import mutation
from tests.mutants import MUTANTS

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
NUMBERS = set(range(1, 31))


def test_each_breakage_finds_its_text_exactly_once():
    assert mutation.misfits(MUTANTS) == []


def test_a_text_that_is_gone_or_stands_there_twice_is_told_with_its_trap_and_file():
    mutant = mutation.Mutant(9, "x", "T/learner.py", "old", "new")
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
    assert {mutant.trap for mutant in MUTANTS} == NUMBERS
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

    monkeypatch.setattr(mutation, "run", run)
    monkeypatch.setattr(mutation, "preload", lambda: None)
    monkeypatch.setattr(sys, "argv", ["mutants.py", "4"])
    assert mutation.main(MUTANTS) == int(code != 1)
    said = capsys.readouterr().out
    assert seen == [False, True]  # the unbroken tree runs first
    assert verdict in said
    assert ("survivors: none" in said) == (code == 1)


def test_a_suite_that_fails_unbroken_proves_nothing(monkeypatch, capsys):
    monkeypatch.setattr(mutation, "run", lambda tree, *, trap: (1, "E   assert 1 == 2"))
    monkeypatch.setattr(mutation, "preload", lambda: None)
    monkeypatch.setattr(sys, "argv", ["mutants.py", "4"])
    assert mutation.main(MUTANTS) == 1
    assert "the tests fail in the unbroken tree:\nE   assert 1 == 2" in capsys.readouterr().out
