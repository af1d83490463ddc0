"""Every reader is one file; users can add one as a file; errors name file and line."""

import functools

import pytest

from envgym.errors import SpecError, UsageError
from envgym.tasksets import Example, load_rows
from envgym.tasksets.readers import shipped_readers
from envgym.tasksets.readers.glue import GLUE

MARKDOWN = '''
from envgym.errors import SpecError
from envgym.tasksets import Example


def read(path, *, skip=0):
    """Yield one example per row of a Markdown table with the columns text and label."""
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines[2 + skip :], start=3 + skip):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) != 2:
            raise SpecError(f"{path}:{number}: expected 2 cells, got {len(cells)}")
        yield Example({"text": cells[0]}, f"{path}:{number}", label=cells[1])
'''


def glue_file(kind: str, *, columns: int | None = None) -> str:
    """Return a GLUE file of one row, optionally with a wrong number of columns."""
    glue = GLUE[kind]
    names = list(glue.columns or (*glue.texts.values(), glue.label))
    value = next(iter(glue.names), "2.5")
    cells = [value if name == glue.label else f"a {name}" for name in names]
    header = [] if glue.columns else ["\t".join(names)]
    return "\n".join([*header, "\t".join(cells[:columns])]) + "\n"


QUESTION = '{"id": "1", "question": "Who?", "answers": [%s]}'
SQUAD = '{"data": [{"paragraphs": [{"context": "Ann came.", "qas": [%s]}]}]}'
GOOD = {
    "csv": "text,label\nx,y\n",
    "tsv": "text\tlabel\nx\ty\n",
    "jsonl": '{"text": "x", "label": "y"}\n',
    "squad": SQUAD % QUESTION % '{"text": "Ann"}',
} | {kind: glue_file(kind) for kind in GLUE}
BAD = {
    "csv": ("text,label\nx\n", ":2: the number of columns differs"),
    "tsv": ('text\tlabel\nx\ty\n"x\n', ":3: the number of columns differs"),
    "jsonl": ('{"text": "x", "label": "y"}\n{\n', ":2: not valid JSON"),
    "squad": (SQUAD % QUESTION % "", ": data[0].paragraphs[0].qas[0]: has no answer"),
} | {
    kind: (
        glue_file(kind, columns=1),
        f":{1 if GLUE[kind].columns else 2}: has 1 columns",
    )
    for kind in GLUE
}


def write(folder, kind, text):
    path = folder / f"data.{kind}"
    path.write_text(text, encoding="utf-8")
    return path


# --- contract ---


@pytest.mark.parametrize("kind", shipped_readers())
def test_a_reader_yields_the_examples_of_a_good_file(tmp_path, kind):
    path = write(tmp_path, kind, GOOD[kind])
    (row,) = load_rows(path, kind=kind)
    assert isinstance(row, Example)
    assert row.texts
    assert row.label or row.answers
    assert row.where.startswith(str(path))


@pytest.mark.parametrize("kind", shipped_readers())
def test_a_reader_names_the_line_of_a_mistake(tmp_path, kind):
    text, told = BAD[kind]
    path = write(tmp_path, kind, text)
    with pytest.raises(SpecError) as caught:
        load_rows(path, kind=kind)
    assert str(caught.value).startswith(f"{path}{told}")


@pytest.mark.parametrize("kind", shipped_readers())
def test_a_reader_reports_files_that_are_empty_missing_or_not_utf_8(tmp_path, kind):
    load = functools.partial(load_rows, kind=kind)
    for path in (write(tmp_path, kind, ""), tmp_path / "absent"):
        with pytest.raises(SpecError):
            load(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(SpecError, match="is not UTF-8"):
        load(path)


def test_each_ending_belongs_to_one_reader():
    endings = [ending for reader in shipped_readers().values() for ending in reader.endings]
    assert sorted(endings) == sorted({*endings}) == [".csv", ".jsonl", ".tsv"]


def test_quotes_in_a_table_with_tabs_belong_to_the_text(tmp_path):
    path = write(tmp_path, "tsv", 'label\tpremise\thypothesis\r\nyes\t"A" is, b\t"open\r\n')
    (row,) = load_rows(path)
    assert (row.texts, row.label) == ({"premise": '"A" is, b', "hypothesis": '"open'}, "yes")
    assert row.where == f"{path}:2"


def test_a_file_of_glue_without_its_kind_is_an_error_with_the_remedy(tmp_path):
    path = tmp_path / "dev.tsv"
    path.write_text(glue_file("mnli"), encoding="utf-8")
    with pytest.raises(SpecError, match=r"dev.tsv:1: no 'text'.* name it with kind="):
        load_rows(path)


# --- a user's reader ---


@pytest.fixture
def table(tmp_path):
    (tmp_path / "tables.py").write_text(MARKDOWN)
    return write(tmp_path, "md", "| text | label |\n|---|---|\n| hello | greeting |\n| a | b |\n")


def test_a_file_beside_the_data_is_a_reader(table):
    rows = load_rows(table, kind="tables.py:read")
    assert [(row.texts["text"], row.label) for row in rows] == [("hello", "greeting"), ("a", "b")]


def test_a_module_is_a_reader_and_its_parameters_are_options(table, monkeypatch):
    monkeypatch.syspath_prepend(table.parent)
    (row,) = load_rows(table, kind="tables:read", skip=1)
    assert row.label == "b"


@pytest.mark.parametrize(
    ("kind", "error", "told"),
    [
        ("tables.py:raed", SpecError, "no 'raed' in tables.py, did you mean 'read'?"),
        ("absent.py:read", SpecError, "absent.py: no such file"),
        ("cvs", UsageError, "no kind of data 'cvs', did you mean 'csv'?; name it: kind=... ("),
        (None, UsageError, "no kind of data 'md'; name it: kind=... ("),
    ],
)
def test_an_unknown_reader_is_an_error(table, kind, error, told):
    with pytest.raises(error) as caught:
        load_rows(table, kind=kind)
    assert told in str(caught.value)


def test_an_option_that_a_reader_lacks_is_an_error(tmp_path):
    path = write(tmp_path, "csv", GOOD["csv"])
    with pytest.raises(UsageError, match=r"'csv' cannot be called: .*'skip_broken'"):
        load_rows(path, skip_broken=True)
