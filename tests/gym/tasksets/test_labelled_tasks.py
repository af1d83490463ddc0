"""Rows become tasks."""

from collections import Counter

import pytest

from envgym.env import ToolWorld
from envgym.errors import SpecError
from envgym.playing import Request, play_many
from envgym.policies.noop import NoopPolicy
from envgym.policies.oracle import OraclePolicy
from envgym.policies.scripted import ScriptedPolicy
from envgym.spec.environment import load_spec
from envgym.tasksets.labelled_rows import load_rows
from envgym.tasksets.labelled_tasks import label_template, question_template
from tests.gym.tasksets.row_files import file, question, squad

TICKETS = "text,label\n" + "".join(
    f"ticket {n} is late,{'billing' if n % 5 else 'delivery'}\n" for n in range(200)
)
YAML = """
id: acme/tickets-v0
prompt: {system: Answer with the label alone.}
tools: []
sandbox: {backend: none}
tasks: {from: tasks.py, val: 8, test: 20}
reward: {solved: {from: label_right}}
episode: {max_turns: 1}
"""
TASKS = """
from pathlib import Path
from envgym.tasksets.labelled_rows import load_rows
from envgym.tasksets.labelled_tasks import label_template

ROWS = load_rows(Path(__file__).parent / "tickets.csv")
ticket = label_template("ticket", ROWS, ask="Whose is this? {text} One of: {labels}.")
"""


@pytest.fixture
def world(tmp_path):
    file(tmp_path, "tickets.csv", TICKETS)
    file(tmp_path, "tasks.py", TASKS)
    world = ToolWorld(load_spec(file(tmp_path, "tickets.yaml", YAML)))
    yield world
    world.close()


def rate(world, policy, split="test"):
    episodes = play_many(
        world.env, policy, [Request(id_, 0) for id_ in world.tasks.ids(split, count=20)], workers=1
    )
    return sum(bool(episode.success) for episode in episodes) / len(episodes)


def test_a_users_file_becomes_an_environment_that_its_oracle_solves(world):
    for split in ("train", "val", "test"):
        assert rate(world, OraclePolicy(), split) == 1.0
        assert rate(world, NoopPolicy(), split) == 0.0


def test_always_answering_one_label_solves_its_share_however_rare_the_label_is(world):
    assert rate(world, ScriptedPolicy(["billing"])) == 0.5
    assert rate(world, ScriptedPolicy(["delivery"])) == 0.5
    assert rate(world, ScriptedPolicy(["billing delivery"])) == 0.0


def test_no_text_stands_in_two_splits(world):
    prompts = {
        s: {world.tasks.task(id_).prompt for id_ in world.tasks.ids(s, count=300)}
        for s in ("train", "val", "test")
    }
    assert not prompts["train"] & prompts["test"]
    assert not prompts["train"] & prompts["val"]
    assert sum(map(len, prompts.values())) == 200  # every row is in one split
    assert len(prompts["train"]) > 140


def rows_of(folder, *lines, name="a.csv"):
    return load_rows(file(folder, name, "text,label\n" + "".join(f"{line}\n" for line in lines)))


def split_rows(folder):
    return {
        s: rows_of(folder, f"{s} one,a", f"{s} two,b", name=f"{s}.csv")
        for s in ("train", "val", "test")
    }


def test_splits_may_be_given_and_must_not_share_a_text(tmp_path):
    label_template("t", split_rows(tmp_path), ask="{text}")
    shared = split_rows(tmp_path) | {
        "test": rows_of(tmp_path, "train one,a", "x,b", name="shared.csv")
    }
    with pytest.raises(
        SpecError,
        match=r"shared.csv:2: the same text is in 'test' here and in 'train' at .*train.csv:2",
    ):
        label_template("t", shared, ask="{text}")
    with pytest.raises(SpecError, match="no split 'dev'"):
        label_template("t", {"dev": rows_of(tmp_path, "x,a")}, ask="{text}")


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (["x,a", "x,b"], r"a.csv:3: the same text is 'b' here and 'a' at .*a.csv:2"),
        (
            ["x,a", "y,b"],
            "split '(train|val|test)' has no row of kind '(a|b)'; add rows, or pass the splits",
        ),
    ],
)
def test_rows_that_contradict_each_other_or_are_too_few(tmp_path, lines, told):
    with pytest.raises(SpecError, match=told):
        label_template("t", rows_of(tmp_path, *lines), ask="{text}")


def test_a_template_that_cannot_be_filled_in_is_an_error(tmp_path):
    rows = split_rows(tmp_path)
    with pytest.raises(
        SpecError, match=r"KeyError: 'body'.*available fields: \{text\}, \{labels\}"
    ):
        label_template("t", rows, ask="{body}")
    with pytest.raises(SpecError, match="must be a plain word"):
        label_template("my tickets", rows, ask="{text}")
    with pytest.raises(SpecError, match=r"train.csv:2: has no label .*which 'q' needs"):
        question_template("q", rows, ask="{text}")


def test_labels_that_differ_in_case_only_cannot_be_told_apart(tmp_path):
    rows = {
        s: rows_of(tmp_path, f"{s} one,Yes", f"{s} two,yes", name=f"{s}.csv")
        for s in ("train", "val", "test")
    }
    with pytest.raises(SpecError, match="differ only in case"):
        label_template("t", rows, ask="{text}")


def test_squad_questions_become_tasks_and_every_second_one_has_no_answer(tmp_path):
    three = [
        ("a", "Who?", ("Ann",), False),
        ("b", "Why?", ("Ann",), False),
        ("c", "When?", (), True),
    ]
    passages = [
        (
            f"Passage {n}. Ann.",
            [
                question(f"{n}{id_}", text, said, is_impossible=none)
                for id_, text, said, none in three
            ],
        )
        for n in range(60)
    ]
    path = file(tmp_path, "dev.json", squad(*passages, version="v2.0"))
    ask = "{context} {question} If it does not say, answer {no_answer}."
    file(
        tmp_path,
        "tasks.py",
        f"""
from envgym.tasksets.labelled_rows import load_rows
from envgym.tasksets.labelled_tasks import question_template

squad = question_template("squad", load_rows({str(path)!r}, kind="squad"), ask={ask!r})
""",
    )
    yaml = YAML.replace("{from: label_right}", "{from: answer_exact, options: {v2: true}}")
    world = ToolWorld(load_spec(file(tmp_path, "squad.yaml", yaml)))
    assert rate(world, OraclePolicy()) == 1.0
    assert rate(world, NoopPolicy()) == 0.0
    assert rate(world, ScriptedPolicy(["unanswerable"])) == 0.5
    tasks = [world.tasks.task(id_) for id_ in world.tasks.ids("train", count=30)]
    assert Counter(bool(task.extra["answers"]) for task in tasks) == {True: 15, False: 15}
    passages_of = {
        s: {world.tasks.task(i).prompt.split(".")[0] for i in world.tasks.ids(s, count=200)}
        for s in ("train", "test")
    }
    assert not passages_of["train"] & passages_of["test"]
    world.close()
