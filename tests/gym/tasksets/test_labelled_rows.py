"""CSV, JSON Lines, GLUE and SQuAD files: read exactly, with file and line in errors, as tasks."""

import json
from collections import Counter

import pytest

from envgym.env import ToolWorld
from envgym.errors import SpecError, UsageError
from envgym.playing import Request, play_many
from envgym.policies.noop import NoopPolicy
from envgym.policies.oracle import OraclePolicy
from envgym.policies.scripted import ScriptedPolicy
from envgym.spec.environment import load_spec
from envgym.tasksets.labelled_rows import load_rows
from envgym.tasksets.labelled_tasks import label_template, question_template


def file(folder, name, text):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def tsv(*lines):
    return "\n".join("\t".join(cells) for cells in lines) + "\n"


def squad(*questions, version="1.1"):
    paragraphs = [{"context": context, "qas": qas} for context, qas in questions]
    return json.dumps({"version": version, "data": [{"title": "T", "paragraphs": paragraphs}]})


def question(id_, text="Who?", answers=("Ann",), **more):
    return {
        "id": id_,
        "question": text,
        "answers": [{"text": answer, "answer_start": 0} for answer in answers],
    } | more


# --- a user's file ---


def test_csv_with_quotes_line_breaks_and_further_columns(tmp_path):
    path = file(
        tmp_path, "a.csv", 'id,text,label\r\n1,"late, again",delivery\r\n2,"two\nlines",billing\r\n'
    )
    rows = load_rows(path)
    assert [(row.texts, row.label) for row in rows] == [
        ({"text": "late, again"}, "delivery"),
        ({"text": "two\nlines"}, "billing"),
    ]
    assert [row.where for row in rows] == [f"{path}:2", f"{path}:3"]


def test_pairs_in_json_lines(tmp_path):
    path = file(
        tmp_path,
        "a.jsonl",
        '{"premise": "p", "hypothesis": "h", "label": 1}\n\n'
        '{"hypothesis": "i", "premise": "q", "label": "0"}\n',
    )
    rows = load_rows(path)
    assert [(row.texts, row.label) for row in rows] == [
        ({"premise": "p", "hypothesis": "h"}, "1"),
        ({"premise": "q", "hypothesis": "i"}, "0"),
    ]
    assert rows[1].where == f"{path}:3"


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("a.csv", "text,lable\nx,y\n", r"a.csv:1: no 'label', did you mean 'lable'\?"),
        ("a.csv", "body,label\nx,y\n", "a.csv:1: no 'text'.*got body,label"),
        ("a.csv", "", "a.csv:1: no 'text'.*got no columns"),
        (
            "a.csv",
            "text,label\nx,y\nz\n",
            r"a.csv:3: the number of columns differs from the header \(2\)",
        ),
        ("a.csv", "text,label\nx,y,z\n", "a.csv:2: the number of columns"),
        ("a.csv", "text,label\nx,\n", "a.csv:2: label must be a non-empty text, got ''"),
        ("a.csv", 'text,label\n"x"y,z\n', "a.csv:2: not valid CSV"),
        ("a.csv", 'text,label\nx,y\n"never closed,z\nx,y\n', "a.csv:3: not valid CSV"),
        ("a.csv", "text,label\n", "a.csv: contains no example"),
        ("a.jsonl", '{"text": "x", "label": "y"}\n{"text": "x"\n', "a.jsonl:2: not valid JSON"),
        ("a.jsonl", '["x", "y"]\n', "a.jsonl:1: must be an object"),
        (
            "a.jsonl",
            '{"text": "x", "label": "y"}\n{"text": "x", "lab": "y"}\n',
            "a.jsonl:2: no 'label'",
        ),
        (
            "a.jsonl",
            '{"text": 3, "label": "y"}\n',
            "a.jsonl:1: text must be a non-empty text, got 3",
        ),
        (
            "a.jsonl",
            '{"text": "x", "label": true}\n',
            "a.jsonl:1: label must be a non-empty text, got True",
        ),
    ],
)
def test_what_is_wrong_is_told_with_file_and_line(tmp_path, name, text, told):
    with pytest.raises(SpecError, match=told):
        load_rows(file(tmp_path, name, text))


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(SpecError, match=r"none.csv: cannot be read: No such file"):
        load_rows(tmp_path / "none.csv")
    latin = tmp_path / "latin.csv"
    latin.write_bytes("text,label\nGröße,y\n".encode("latin-1"))
    with pytest.raises(SpecError, match=r"latin.csv: is not UTF-8 \(byte 13\)"):
        load_rows(latin)


def test_a_kind_that_is_not_known(tmp_path):
    with pytest.raises(UsageError, match=r"no kind of data 'txt'.*kind="):
        load_rows(tmp_path / "dev.txt")
    with pytest.raises(UsageError, match="did you mean 'stsb'"):
        load_rows(tmp_path / "dev.tsv", kind="sts-b")


# --- GLUE ---

PAIR = ("index", "sentence1", "sentence2", "label")
MNLI = (
    "index",
    "promptID",
    "pairID",
    "genre",
    "sentence1_binary_parse",
    "sentence2_binary_parse",
    "sentence1_parse",
    "sentence2_parse",
    "sentence1",
    "sentence2",
    "label1",
    "gold_label",
)
STSB = (
    "index",
    "genre",
    "filename",
    "year",
    "old_index",
    "source1",
    "source2",
    "sentence1",
    "sentence2",
    "score",
)


@pytest.mark.parametrize(
    ("kind", "lines", "texts", "label"),
    [
        (
            "cola",
            [("gj04", "0", "*", "They drank the pub.")],
            {"sentence": "They drank the pub."},
            "unacceptable",
        ),
        ("cola", [("gj04", "1", "", 'He said "so.')], {"sentence": 'He said "so.'}, "acceptable"),
        ("sst2", [("sentence", "label"), ("a gem ", "1")], {"sentence": "a gem"}, "positive"),
        (
            "mrpc",
            [
                ("\ufeffQuality", "#1 ID", "#2 ID", "#1 String", "#2 String"),
                ("1", "7", "8", '"Yes', "Yes"),
            ],
            {"sentence1": '"Yes', "sentence2": "Yes"},
            "equivalent",
        ),
        (
            "qqp",
            [
                ("id", "qid1", "qid2", "question1", "question2", "is_duplicate"),
                ("1", "2", "3", "Why?", "How?", "0"),
            ],
            {"question1": "Why?", "question2": "How?"},
            "not_duplicate",
        ),
        (
            "mnli",
            [MNLI, ("0", "1", "1n", "fiction", "", "", "", "", "A.", "B.", "neutral", "neutral")],
            {"premise": "A.", "hypothesis": "B."},
            "neutral",
        ),
        (
            "qnli",
            [("index", "question", "sentence", "label"), ("0", "Who?", "Ann.", "entailment")],
            {"question": "Who?", "sentence": "Ann."},
            "entailment",
        ),
        (
            "rte",
            [PAIR, ("0", "A.", "B.", "not_entailment")],
            {"premise": "A.", "hypothesis": "B."},
            "not_entailment",
        ),
        (
            "wnli",
            [PAIR, ("0", "A.", "B.", "1")],
            {"premise": "A.", "hypothesis": "B."},
            "entailment",
        ),
    ],
)
def test_each_glue_task_has_its_own_columns(tmp_path, kind, lines, texts, label):
    (row,) = load_rows(file(tmp_path, "dev.tsv", tsv(*lines)), kind=kind)
    assert (row.texts, row.label) == (texts, label)
    assert row.where.endswith(f"dev.tsv:{len(lines)}")


@pytest.mark.parametrize(
    ("score", "label"), [("2.5", "3"), ("2.499", "2"), ("0.000", "0"), ("5.000", "5")]
)
def test_sts_b_keeps_its_score_and_has_the_nearest_whole_number_as_label(tmp_path, score, label):
    cells = ("0", "news", "f", "2012", "1", "none", "none", "A.", "B.", score)
    (row,) = load_rows(file(tmp_path, "dev.tsv", tsv(STSB, cells)), kind="stsb")
    assert (row.score, row.label) == (float(score), label)


@pytest.mark.parametrize(
    ("kind", "lines", "told"),
    [
        ("cola", [("index", "sentence"), ("0", "A.")], "dev.tsv:1: has no labels"),
        ("sst2", [("index", "sentence"), ("0", "A.")], "dev.tsv:1: has no labels"),
        ("rte", [PAIR, ("0", "A.", "B.")], "dev.tsv:2: has 3 columns, not 4; set skip_broken=True"),
        (
            "rte",
            [PAIR, ("0", "A.", "B.", "yes")],
            "dev.tsv:2: label is 'yes', not one of entailment, not_entailment",
        ),
        ("rte", [PAIR, ("0", "A.", " ", "entailment")], "dev.tsv:2: hypothesis is empty"),
        (
            "wnli",
            [PAIR, ("0", "A.", "B.", "entailment")],
            "dev.tsv:2: label is 'entailment', not one of 0, 1",
        ),
        (
            "sst2",
            [PAIR, ("0", "A.", "B.", "1")],
            r"dev.tsv:1: no column 'sentence', did you mean 'sentence\d'\?.* sst2",
        ),
        (
            "stsb",
            [STSB, ("0", "n", "f", "1", "1", "n", "n", "A.", "B.", "5.1")],
            "dev.tsv:2: score must be a number from 0 to 5",
        ),
        ("stsb", [STSB, ("0", "n", "f", "1", "1", "n", "n", "A.", "B.", "nan")], "got 'nan'"),
        ("stsb", [STSB, ("0", "n", "f", "1", "1", "n", "n", "A.", "B.", "high")], "got 'high'"),
    ],
)
def test_a_glue_file_of_another_form_is_an_error(tmp_path, kind, lines, told):
    with pytest.raises(SpecError, match=told):
        load_rows(file(tmp_path, "dev.tsv", tsv(*lines)), kind=kind)


def test_broken_lines_are_left_out_when_that_is_asked_for(tmp_path):
    path = file(
        tmp_path, "train.tsv", tsv(PAIR, ("0", "A.", "B."), ("1", "C.", "D.", "entailment"))
    )
    assert [row.where for row in load_rows(path, kind="rte", skip_broken=True)] == [f"{path}:3"]


# --- SQuAD ---


def test_squad_1_1_and_its_repeated_answers(tmp_path):
    path = file(
        tmp_path,
        "dev.json",
        squad(("Ann and Bob.", [question("a", answers=("Ann", "Ann", "Ann and Bob"))])),
    )
    (row,) = load_rows(path, kind="squad")
    assert (row.texts, row.answers) == (
        {"context": "Ann and Bob.", "question": "Who?"},
        ("Ann", "Ann and Bob"),
    )
    assert row.where == f"{path}: data[0].paragraphs[0].qas[0]"


def test_squad_2_0_marks_what_cannot_be_answered(tmp_path):
    hard = question(
        "b", answers=(), is_impossible=True, plausible_answers=[{"text": "Bob", "answer_start": 0}]
    )
    rows = load_rows(
        file(
            tmp_path,
            "dev.json",
            squad(("Ann.", [question("a", is_impossible=False), hard]), version="v2.0"),
        ),
        kind="squad",
    )
    assert [row.answers for row in rows] == [("Ann",), ()]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"data": [\n{]}', "dev.json:2: not valid JSON"),
        ("[]", "dev.json: data: must be a list, as in SQuAD's JSON"),
        ('{"data": [{"title": "T"}]}', r"dev.json: data\[0\].paragraphs: must be a list"),
        ('{"data": ["T"]}', r"data\[0\]: must be an object, got str"),
        (squad(("Ann.", [question("a", answers=())])), r"qas\[0\]: has no answer; SQuAD 2.0 marks"),
        (
            squad(("Ann.", [question("a", is_impossible=True)])),
            r"qas\[0\]: is_impossible is true, but there is an answer: 'Ann'",
        ),
        (
            squad(("Ann.", [question("a", is_impossible="yes")])),
            "is_impossible must be true or false",
        ),
        (
            squad(("Ann.", [question("a"), question("a")])),
            r"qas\[1\]: id 'a' is already used at .*qas\[0\]",
        ),
        (
            squad(("Ann.", [question("a", text=" ")])),
            r"qas\[0\]: question must be a non-empty text",
        ),
        (squad(("", [question("a")])), r"paragraphs\[0\]: context must be"),
        (squad(("Ann.", [question("a", answers=("",))])), r"answers\[0\]: text must be"),
    ],
)
def test_a_squad_file_of_another_form_is_an_error_with_its_place(tmp_path, text, told):
    with pytest.raises(SpecError, match=told):
        load_rows(file(tmp_path, "dev.json", text), kind="squad")


# --- rows become tasks ---

TICKETS = "text,label\n" + "".join(
    f"ticket {n} is late,{'billing' if n % 5 else 'delivery'}\n" for n in range(200)
)
YAML = """
id: acme/tickets-v0
prompt: {system: Answer with the label alone., tools: template}
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
