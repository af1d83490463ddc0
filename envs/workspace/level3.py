"""Level L3: repair or write a file. A hidden test verifies the result; the way is free.

Each test deletes its file before it checks anything, and runs programs as separate processes: the
model's code can neither read nor stop the test. Only the file in question may change.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from dataclasses import dataclass

import wording
from parts import new_path, new_word, patch, pick, read, write
from wording import say

from envgym import ANY, Change, Check, Draw, Task, template

TEST = "tests/test_hidden.py"
PROGRAM_TEST = """\
import subprocess, sys
from pathlib import Path

Path(__file__).unlink()
for arguments, expected in {cases!r}:
    said = subprocess.run([sys.executable, "-I", {path!r}, *arguments], \
capture_output=True, text=True, timeout=5)
    assert said.stdout.split() == expected.split(), \
(arguments, said.stdout[-200:], said.stderr[-400:])
"""
JSON_TEST = """\
import json
from pathlib import Path

Path(__file__).unlink()
assert json.loads(Path({path!r}).read_text()) == {expected!r}
"""

Case = tuple[list[str], str]
"""Arguments of a program, and its expected output."""


@dataclass(frozen=True)
class Bug:
    """Bug in one of the programs of the world, and its repair."""

    wrong: str
    """Text that occurs in this program only."""
    right: str
    case: Callable[[random.Random], Case]


def _numbers(rng: random.Random, low: int, high: int) -> list[int]:
    return [rng.randint(low, high) for _ in range(rng.randint(2, 6))]


def _average(rng: random.Random) -> Case:
    numbers = _numbers(rng, 1, 99)
    return [*map(str, numbers)], f"{sum(numbers) / len(numbers):.2f}"


def _largest(rng: random.Random) -> Case:
    numbers = _numbers(rng, -99, rng.choice((-1, 99)))
    return [*map(str, numbers)], str(max(numbers))


def _backwards(rng: random.Random) -> Case:
    half = new_word(rng)
    word = rng.choice((half + half[::-1], half + half[-2::-1], half)).capitalize()
    return [word], "yes" if word.lower() == word.lower()[::-1] else "no"


def _sum(rng: random.Random) -> Case:
    number = rng.randint(1, 200)
    return [str(number)], str(number * (number + 1) // 2)


def _leap(rng: random.Random) -> Case:
    year = rng.choice((rng.randint(1601, 2399), 100 * rng.randint(16, 23), 400 * rng.randint(3, 5)))
    return [str(year)], "yes" if year % 4 == 0 and (year % 100 != 0 or year % 400 == 0) else "no"


def _words(rng: random.Random) -> Case:
    words = [new_word(rng) for _ in range(rng.randint(1, 6))]
    return [(" " * rng.randint(1, 3)).join(words)], str(len(words))


def _minutes(rng: random.Random) -> Case:
    seconds = rng.choice((rng.randint(0, 5000), 60 * rng.randint(0, 50) + rng.randint(0, 9)))
    return [str(seconds)], f"{seconds // 60}:{seconds % 60:02}"


def _once(rng: random.Random) -> Case:
    words = [rng.choice("abcdefgh") for _ in range(rng.randint(3, 9))]
    return words, " ".join(dict.fromkeys(words))


BUGS = (
    Bug("sum(numbers) // len(numbers)", "sum(numbers) / len(numbers)", _average),
    Bug("largest = 0", "largest = int(sys.argv[1])", _largest),
    Bug("word = sys.argv[1]\n", "word = sys.argv[1].lower()\n", _backwards),
    Bug("range(1, int(sys.argv[1]))", "range(1, int(sys.argv[1]) + 1)", _sum),
    Bug(
        "if year % 4 == 0 else",
        "if year % 4 == 0 and (year % 100 != 0 or year % 400 == 0) else",
        _leap,
    ),
    Bug('split(" ")', "split()", _words),
    Bug("{minutes}:{seconds}", "{minutes}:{seconds:02}", _minutes),
    Bug("sorted(set(sys.argv[1:]))", "dict.fromkeys(sys.argv[1:])", _once),
)
CASES = 12

WISHES: tuple[tuple[str, str, Callable[[random.Random], Case]], ...] = (
    (
        "It prints the smallest of the whole numbers that it is given as arguments.",
        "import sys\n\nprint(min(map(int, sys.argv[1:])))",
        lambda rng: (lambda numbers: ([*map(str, numbers)], str(min(numbers))))(
            _numbers(rng, -99, 99)
        ),
    ),
    (
        "It prints its arguments in reverse order, with spaces between them.",
        "import sys\n\nprint(*sys.argv[:0:-1])",
        lambda rng: (lambda words: (words, " ".join(words[::-1])))(
            [new_word(rng) for _ in range(rng.randint(1, 5))]
        ),
    ),
    (
        (
            "It prints how many of its arguments are even whole numbers; all arguments are whole "
            "numbers."
        ),
        "import sys\n\nprint(sum(int(word) % 2 == 0 for word in sys.argv[1:]))",
        lambda rng: (lambda numbers: ([*map(str, numbers)], str(sum(n % 2 == 0 for n in numbers))))(
            _numbers(rng, -50, 99)
        ),
    ),
    (
        "It takes a word and prints how many vowels (a, e, i, o, u) it has.",
        "import sys\n\nprint(sum(letter in 'aeiou' for letter in sys.argv[1]))",
        lambda rng: (lambda word: ([word], str(sum(word.count(vowel) for vowel in "aeiou"))))(
            new_word(rng) + new_word(rng)
        ),
    ),
)


@template(level="L3")
def mend_json(draw: Draw) -> Task:
    path = pick(draw, "config", ".json")
    text = _mended(draw.files[path])
    check = _check(JSON_TEST.format(path=path, expected=json.loads(text)))
    prompt = say(draw, wording.MEND_JSON, path=path)
    return draw.task(
        prompt=prompt,
        oracle=[read(path), write(path, text)],
        changes=[_any_text(path)],
        check=check,
    )


@template(level="L3")
def mend_program(draw: Draw) -> Task:
    path = pick(draw, "programs")
    bug = next(bug for bug in BUGS if bug.wrong in draw.files[path])
    check = _program_check(path, bug.case, draw.rng)
    prompt = say(draw, wording.MEND_PROGRAM, path=path)
    oracle = [read(path), patch(path, bug.wrong, bug.right)]
    return draw.task(prompt=prompt, oracle=oracle, changes=[_any_text(path)], check=check)


@template(level="L3", splits=("test",))
def new_program(draw: Draw) -> Task:
    path = new_path(draw, "programs", ".py")
    (wish, code, case) = draw.rng.choice(WISHES)
    check = _program_check(path, case, draw.rng)
    prompt = say(draw, wording.NEW_PROGRAM, path=path, wish=wish)
    return draw.task(
        prompt=prompt,
        oracle=[write(path, code)],
        changes=[Change.insert("files", path=path)],
        check=check,
    )


def _any_text(path: str) -> Change:
    return Change.update("files", path, text=ANY)


def _program_check(path: str, case: Callable[[random.Random], Case], rng: random.Random) -> Check:
    return _check(PROGRAM_TEST.format(path=path, cases=[case(rng) for _ in range(CASES)]))


def _check(test: str) -> Check:
    return Check(files={TEST: test}, command=("python", "-I", TEST))


def _mended(text: str) -> str:
    """Repair a broken JSON object, for each of the ways in which the world breaks one."""
    repairs = (
        lambda text: text.replace(",\n}", "\n}"),
        lambda text: re.sub(r'(["\d])\n  "', r'\1,\n  "', text),
        lambda text: text.replace("'", '"'),
        lambda text: re.sub(r"^  (\w+):", r'  "\1":', text, flags=re.MULTILINE),
    )
    for repair in repairs:
        try:
            json.loads(repair(text))
        except ValueError:
            continue
        return repair(text)
    raise LookupError("a file that none of the repairs mends")
