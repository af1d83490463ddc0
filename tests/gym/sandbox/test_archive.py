"""Files of a box: the list, patterns of further files, links and limits."""

import dataclasses
import io
import tarfile
from pathlib import Path

import pytest

from envgym.errors import SpecError
from envgym.sandbox import App
from envgym.sandbox import archive as parcels
from envgym.sandbox.archive import pack

HERE = Path(__file__).parent


def packed(app: App) -> set[str]:
    """Return the files of the app that a container receives."""
    with tarfile.open(fileobj=io.BytesIO(pack(app))) as archive:
        names = {entry.name for entry in archive.getmembers() if entry.isfile()}
    return {name.removeprefix("app/") for name in names if name.startswith("app/")}


def fill(folder: Path, texts: dict[str, str]) -> None:
    """Write files below a folder."""
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_a_container_gets_the_agent_readable_for_all(tmp_path):
    fill(tmp_path, {"crm/tools.py": "x = 1\n"})
    (tmp_path / "crm/tools.py").chmod(0o600)
    with tarfile.open(fileobj=io.BytesIO(pack(App(tmp_path, ("crm/tools.py:x",))))) as archive:
        entries = archive.getmembers()
    names = {entry.name for entry in entries if entry.isfile()}
    shipped = {
        f"agent/{path.relative_to(parcels.AGENT).as_posix()}"
        for path in parcels.AGENT.rglob("*.py")
    }
    assert {name for name in names if name.startswith("agent/") and "." in name} == shipped
    assert {"agent/__main__.py", "agent/fork/fork_server.py", "agent/openapi/tools.py"} <= shipped
    assert {(entry.mode, entry.uid) for entry in entries if entry.isfile()} == {(0o644, 0)}
    assert {entry.name: entry.mode for entry in entries if entry.isdir()}["app/crm"] == 0o755


def test_a_container_gets_what_the_apps_files_import_and_no_other_file_of_their_folders(tmp_path):
    fill(
        tmp_path,
        {
            "crm/tools.py": "import words\nfrom pack.inner import x\n",
            "crm/words.py": "from shared import names\n",
            "crm/pack/__init__.py": "",
            "crm/pack/inner.py": "from . import deep\n",
            "crm/pack/deep.py": "",
            "shared/names.py": "",
            "crm/answers.json": "{}",
            "crm/tasks.py": "import answers_of_tasks",
            "crm/answers_of_tasks.py": "",
            "crm/.env": "KEY=1",
        },
    )
    assert packed(App(tmp_path, ("crm/tools.py",))) == {
        "crm/tools.py",
        "crm/words.py",
        "crm/pack/__init__.py",
        "crm/pack/inner.py",
        "crm/pack/deep.py",
        "shared/names.py",
    }


def test_further_files_are_listed_by_pattern_or_folder(tmp_path):
    fill(
        tmp_path,
        {
            "tools.py": "",
            "data/a.csv": "1",
            "data/b.csv": "2",
            "data/c.txt": "3",
            "web/in/x.html": "",
            "tasks.py": "",
        },
    )
    app = App(tmp_path, ("tools.py",), hidden=("tasks.py",))
    more = dataclasses.replace(app, extra_files=("data/*.csv", "web", "*.py"))
    assert packed(app) == {"tools.py"}
    assert packed(more) == {"tools.py", "data/a.csv", "data/b.csv", "web/in/x.html"}


def test_a_pattern_does_not_take_along_data_that_only_the_tasks_name(tmp_path):
    fill(tmp_path, {"tools.py": "", "tasks.py": "open('truth.csv')", "data/truth.csv": "1"})
    app = App(tmp_path, ("tools.py",), hidden=("tasks.py",), extra_files=("data/*",))
    with pytest.raises(SpecError, match=r"truth.csv is read by tasks.py"):
        pack(app)
    assert "data/truth.csv" in packed(dataclasses.replace(app, extra_files=("data/truth.csv",)))


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("nothing/*.csv", "matches no file"),
        ("../x", "is outside"),
        ("/etc/passwd", "is outside"),
        ("tasks.py", "defines tasks or rewards"),
    ],
)
def test_a_pattern_that_cannot_be_meant_is_refused(tmp_path, pattern, message):
    fill(tmp_path, {"tools.py": "", "tasks.py": ""})
    app = App(tmp_path, ("tools.py",), hidden=("tasks.py",), extra_files=(pattern,))
    with pytest.raises(SpecError, match=message):
        pack(app)


@pytest.mark.parametrize("how", ["file", "folder", "import", "tool", "tasks"])
def test_a_link_is_never_followed_out_of_the_folder_or_to_hidden_files(tmp_path, how):
    fill(tmp_path, {"app/tools.py": "import key\n", "app/tasks.py": "", "out/key.py": ""})
    root = tmp_path / "app"
    (root / "data").mkdir()
    target = root / "tasks.py" if how == "tasks" else tmp_path / "out/key.py"
    place = {"import": "key.py", "tool": "other.py"}.get(how, "data/key.txt")
    if how == "folder":
        (root / "data/sub").symlink_to(tmp_path / "out")
        (root / "data/sub2").mkdir()
    else:
        (root / place).symlink_to(target)
    tools = ("tools.py", "other.py") if how == "tool" else ("tools.py",)
    extra = {"folder": ("data/sub/*",)}.get(how, ("data/*.txt",) if "data" in place else ())
    with pytest.raises(SpecError, match="is a link"):
        pack(App(root, tools, hidden=("tasks.py",), extra_files=extra))


@pytest.mark.parametrize("reference", ["../secret.py", "/etc/passwd", "crm/../../secret.py:x"])
def test_files_outside_the_apps_folder_are_refused(reference):
    with pytest.raises(SpecError, match="is outside"):
        pack(App(HERE, (reference,)))


def test_a_folder_with_too_much_in_it_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(parcels, "MOST_BYTES", 10)
    (tmp_path / "tools.py").write_text("x = 'more than ten bytes'\n")
    with pytest.raises(SpecError, match=r"List fewer in sandbox\.files"):
        pack(App(tmp_path, ("tools.py",)))
