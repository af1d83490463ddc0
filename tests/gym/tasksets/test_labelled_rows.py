"""Files of labelled rows: a user's own, and GLUE's."""

import pytest

from envgym.errors import SpecError, UsageError
from envgym.tasksets.labelled_rows import load_rows
from tests.gym.tasksets.row_files import file


def tsv(*lines):
    return "\n".join("\t".join(cells) for cells in lines) + "\n"


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
    with pytest.raises(SpecError, match=r"latin.csv: is not UTF-8 \(byte 13, line 2\)"):
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
