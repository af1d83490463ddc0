"""Every command is one file; users can add one as a file; errors name the fix."""

import argparse
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from envgym.commands import build_parser, main
from envgym.commands.registry import CommandFile, find_commands

SHOUT = '''"""Print a word in capitals."""

import argparse

EXAMPLE = "envgym shout hello"


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("word")


def run(arguments: argparse.Namespace) -> int:
    print(arguments.word.upper())
    return 7
'''


def all_commands(
    commands: dict[str, CommandFile], prefix: str = ""
) -> list[tuple[str, CommandFile]]:
    """Return all commands with their words, including those of groups."""
    found = []
    for name, command in commands.items():
        if command.is_group:
            found += all_commands(command.commands(), f"{prefix}{name} ")
        else:
            found.append((f"{prefix}{name}", command))
    return found


COMMANDS = all_commands(find_commands())


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A function that writes files to a user's folder and names one in ENVGYM_COMMANDS."""

    def write(source: str = "shout.py", **files: str) -> Path:
        for name, text in (files or {"shout.py": SHOUT}).items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        monkeypatch.setenv("ENVGYM_COMMANDS", str(tmp_path / source) if source else "")
        return tmp_path

    return write


def test_all_commands_are_found():
    assert {name for name, _ in COMMANDS} >= {
        *("list", "play", "eval", "check", "schema", "reward score"),
        *("sandbox ls", "sandbox gc", "sandbox doctor", "sandbox bench"),
        *("train", "preflight", "fetch", "bench", "study", "explain"),
    }


# --- contract ---


@pytest.mark.parametrize(("words", "command"), COMMANDS, ids=[words for words, _ in COMMANDS])
def test_a_command_has_a_summary_and_its_example_is_accepted(words, command, capsys):
    assert command.summary.endswith(".")
    assert len(command.summary) <= 90
    module = command.load()
    (example,) = [
        line for line in module.EXAMPLE.splitlines() if line.startswith(f"envgym {words}")
    ][:1]
    arguments, rest = build_parser().parse_known_args(shlex.split(example)[1:])
    assert arguments.run is module.run
    assert all("=" in word for word in rest)
    with pytest.raises(SystemExit):
        main([*words.split(), "--help"])
    assert f"example:\n  {module.EXAMPLE.splitlines()[0]}" in capsys.readouterr().out


def test_help_imports_no_command(own):
    own(**{"shout.py": f'{SHOUT}\nraise RuntimeError("imported")\n'})
    done = subprocess.run(
        [sys.executable, "-m", "envgym", "--help"], capture_output=True, text=True, check=True
    )
    assert "Print a word in capitals." in done.stdout


# --- a user's command ---


def test_a_file_is_a_command(own, capsys):
    own()
    assert main(["shout", "hello"]) == 7
    assert capsys.readouterr().out == "HELLO\n"


def test_a_folder_is_several_commands_and_a_file_without_run_is_a_helper(own, capsys):
    folder = own("mine", **{"mine/shout.py": SHOUT, "mine/words.py": "WORD = 'x'\n"})
    (folder / "mine/words.txt").write_text("no Python")
    assert main(["shout", "hello"]) == 7
    assert main(["words"]) == 2
    assert "no command 'words'" in capsys.readouterr().err


def test_a_module_and_a_package_are_commands_too(own, monkeypatch, capsys):
    folder = own(
        "", **{"loud/__init__.py": '"""Speak loudly."""\n', "loud/shout.py": SHOUT, "cry.py": SHOUT}
    )
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("ENVGYM_COMMANDS", "loud:cry")
    assert main(["shout", "hello"]) == main(["cry", "oh"]) == 7
    assert capsys.readouterr().out == "HELLO\nOH\n"


def test_a_folder_in_a_folder_is_a_group(own, capsys):
    own(
        "mine", **{"mine/voice/__init__.py": '"""Use the voice."""\n', "mine/voice/shout.py": SHOUT}
    )
    assert main(["voice", "shout", "hello"]) == 7
    with pytest.raises(SystemExit):
        main(["voice", "--help"])
    assert "Print a word in capitals." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({"shout.py": "x = 1\n"}, "shout.py defines no command. A command is a Python file with"),
        ({"shout.py": "def run(:\n"}, "shout.py: cannot be read as a command: invalid syntax"),
        ({"shout.py": "def run(arguments): ...\n"}, "'shout' has no function add(parser). Add one"),
        ({"other.py": SHOUT}, "shout.py: cannot be read as a command: "),
        ({"list.py": SHOUT}, "two commands are named 'list': "),
    ],
)
def test_a_wrong_file_is_an_error_that_names_the_fix(own, files, told, capsys):
    own("list.py" if "list.py" in files else "shout.py", **files)
    assert main(["shout", "hello"]) == 2
    assert told in capsys.readouterr().err


def test_a_missing_module_is_an_error(monkeypatch, capsys):
    monkeypatch.setenv("ENVGYM_COMMANDS", "no_such.module")
    assert main(["list"]) == 2
    assert "there is no module 'no_such.module'" in capsys.readouterr().err


# --- names ---


@pytest.mark.parametrize(("old", "new"), [("doctor", "preflight"), ("model", "fetch")])
def test_an_old_name_is_answered_with_the_new_one(old, new, capsys):
    assert main([old, "guess"]) == 2
    assert f"`envgym {old}` is now `envgym {new}`: envgym {new} guess" in capsys.readouterr().err


def test_a_misspelt_command_is_answered_with_the_right_one(capsys):
    assert main(["chek"]) == 2
    assert "no command 'chek', did you mean 'check'? Available: check, " in capsys.readouterr().err


def test_settings_may_stand_anywhere_but_unknown_options_may_not(capsys):
    parser: argparse.ArgumentParser = build_parser()
    arguments, rest = parser.parse_known_args(["check", "guess", "--json", "episode.max_turns=2"])
    assert (arguments.settings, rest) == ([], ["episode.max_turns=2"])
    with pytest.raises(SystemExit):
        main(["list", "--nonsense"])
    assert "unrecognized arguments: --nonsense" in capsys.readouterr().err
