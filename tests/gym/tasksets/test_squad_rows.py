"""SQuAD files as rows."""

import pytest

from envgym.errors import SpecError
from envgym.tasksets.labelled_rows import load_rows
from tests.gym.tasksets.row_files import file, question, squad


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
