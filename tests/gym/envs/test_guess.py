"""The guessing game: a hidden number, correct answers, and an oracle that uses binary search."""

import sqlite3
from collections import Counter
from pathlib import Path

import pytest

from envgym.modules import load_file
from envgym.spec.environment import load_spec
from envgym.tasksets.templates import TemplateTaskSet

GUESS = Path(__file__).parents[3] / "envs" / "guess"
SOURCE = TemplateTaskSet(load_spec(GUESS.parent / "guess.yaml"))
TOOLS = load_file(GUESS / "tools.py")


def game(seed: int) -> sqlite3.Connection:
    db = sqlite3.connect(":memory:")
    db.executescript((GUESS / "schema.sql").read_text(encoding="utf-8"))
    load_file(GUESS / "world.py").build(db, seed)
    return db


def hiding(number: int, highest: int = 15) -> sqlite3.Connection:
    db = game(0)
    db.execute("UPDATE secret SET number = ?, highest = ?", (number, highest))
    return db


def test_the_tool_tells_where_the_number_lies_and_keeps_the_guess():
    db = hiding(9)
    assert [TOOLS.guess(db, number) for number in (8, 12, 9)] == ["higher", "lower", "correct"]
    assert [row[0] for row in db.execute("SELECT number FROM guesses")] == [8, 12, 9]


@pytest.mark.parametrize("number", [0, 16, -3])
def test_a_guess_out_of_range_is_refused(number):
    db = hiding(9)
    with pytest.raises(ValueError, match="from 1 to 15"):
        TOOLS.guess(db, number)
    assert db.execute("SELECT count(*) FROM guesses").fetchone()[0] == 0


@pytest.mark.parametrize(
    ("hidden", "highest"),
    [*((n, 15) for n in range(1, 16)), *((n, 63) for n in (1, 31, 32, 33, 47, 63))],
)
def test_halving_finds_any_number_and_follows_the_answers(hidden, highest):
    guesses = load_file(GUESS / "tasks.py").halving(hidden, low=1, high=highest)
    told = [TOOLS.guess(hiding(hidden, highest), number) for number in guesses]
    assert len(guesses) <= {15: 4, 63: 6}[highest]
    assert guesses[0] == (highest + 1) // 2
    assert told[-1] == "correct"
    for before, answer, after in zip(guesses, told, guesses[1:], strict=False):
        assert (after > before) == (answer == "higher")


def test_the_long_game_hides_one_of_sixty_three_and_leaves_turns_to_spare():
    spec = load_spec(GUESS.parent / "guess-long.yaml")
    source = TemplateTaskSet(spec)
    tasks = [source.task(id_) for id_ in source.ids("train", count=1000)]
    assert {task.oracle[-1].arguments["number"] for task in tasks} == set(range(1, 64))
    assert max(len(task.oracle) for task in tasks) == spec.episode.max_turns - 3


def test_every_number_is_hidden_about_equally_often():
    counts = Counter(
        game(seed).execute("SELECT number FROM secret").fetchone()[0] for seed in range(1500)
    )
    assert set(counts) == set(range(1, 16))
    assert min(counts.values()) > 60  # 100 expected


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_the_truth_is_the_hidden_number_and_no_digit_stands_in_the_prompt(split):
    for id_ in SOURCE.ids(split, count=30):
        task = SOURCE.task(id_)
        hidden = game(task.seed).execute("SELECT number FROM secret").fetchone()[0]
        assert task.changes[0].values == {"number": hidden}
        assert task.oracle[-1].arguments == {"number": hidden}
        assert not any(sign.isdigit() for sign in task.prompt + SOURCE.spec.prompt.system)


def test_held_out_prompts_were_never_seen():
    prompts = {
        split: {SOURCE.task(id_).prompt for id_ in SOURCE.ids(split, count=60)}
        for split in ("train", "val", "test")
    }
    assert not prompts["train"] & prompts["test"]
    assert not prompts["train"] & prompts["val"]
