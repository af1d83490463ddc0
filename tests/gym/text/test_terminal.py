"""The console prints foreign text as text: neither markup nor escape sequences have an effect."""

import contextlib
import io
import logging
import sys

import pytest
import rich.console
from rich.progress import Progress, TextColumn
from rich.table import Table
from rich.text import Text

from envgym.commands import main
from envgym.messages import Message
from envgym.policies.human import HumanPolicy
from envgym.text.terminal import Console, cell, heading, prepare_streams, print_line

HOSTILE = [
    "[/x]",
    "[red]gone[/red]",
    ":smile:",
    "[link=http://x]y[/link]",
    "\x1b]0;title\x07",
    "\x1b[2J",
    "\x9b31m",
    "\x1b]8;;http://x\x1b\\here\x1b]8;;\x1b\\",
    "\x1b]52;c;ZXZpbA==\x07",
    "a\rb",
    "x\u202ey",
    "\ud83d",
]


def console(**options) -> tuple[Console, io.StringIO]:
    screen = io.StringIO()
    return Console(file=screen, width=80, **options), screen


def raw_controls(text: str) -> set[str]:
    return {letter for letter in text if ord(letter) < 32 or 0x7F <= ord(letter) < 0xA0} - {"\n"}


@pytest.mark.parametrize("text", HOSTILE)
def test_a_string_is_printed_as_it_is(text):
    out, screen = console()
    out.print(text)
    shown = screen.getvalue().rstrip("\n")
    assert not raw_controls(shown)
    assert shown.encode("utf-8", "strict")
    if text.isprintable():
        assert shown == text


@pytest.mark.parametrize("text", HOSTILE)
def test_tables_titles_and_bars_take_any_name(text):
    out, screen = console()
    table = Table(title=text, caption=text)
    table.add_column(text)
    table.add_row(text)
    table.add_row(Text(text))
    out.print(table)
    with Progress(TextColumn("{task.description}", markup=False), console=out) as progress:
        progress.add_task(text, total=1)
    assert not raw_controls(screen.getvalue())
    if text.isprintable():
        assert screen.getvalue().count(text) >= 4


@pytest.mark.parametrize("text", HOSTILE)
def test_cells_and_headings_are_safe_in_any_console_of_rich(text):
    screen = io.StringIO()
    out = rich.console.Console(file=screen, width=80)
    table = Table(title=cell(text))
    table.add_column(cell(text))
    table.add_row(cell(text, "bold"))
    out.print(table, heading(text, text))
    assert not raw_controls(screen.getvalue())
    if text.isprintable():
        assert screen.getvalue().count(text) >= 5


@pytest.mark.parametrize("text", HOSTILE)
def test_a_person_who_plays_sees_text_only(text):
    screen = io.StringIO()
    policy = HumanPolicy(console=rich.console.Console(file=screen), read=lambda prompt: "ok")
    policy.open([Message("user", text), Message("tool", text, name=text)], (), seed=0)
    assert not raw_controls(screen.getvalue())


def test_the_consoles_own_styles_still_work():
    out, screen = console(force_terminal=True, color_system="standard")
    out.print(heading("title\x1b[2J"))
    assert screen.getvalue() == "\x1b[1mtitle\\x1b[2J\x1b[0m\n"


def test_lines_and_error_messages_are_printed_visibly(capsys):
    print_line("a\x1b[2Jb")
    assert main(["eval", "no\x1b[2Jsuch", "--policy", "oracle"]) == 2
    printed = capsys.readouterr()
    assert printed.out == "a\\x1b[2Jb\n"
    assert "no\\x1b[2Jsuch" in printed.err
    assert "\x1b" not in printed.err


@pytest.mark.parametrize(
    "words", [["\x1b[2J"], ["eval", "guess", "--policy", "noop", "--\x1b]0;t\x07"]]
)
def test_wrong_arguments_are_printed_visibly(words, capsys):
    with contextlib.suppress(SystemExit):
        assert main(words) == 2
    assert "\\x1b" in capsys.readouterr().err


def test_a_stream_of_another_encoding_gets_escapes(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9\n"), encoding="utf-8"))
    monkeypatch.setattr(logging, "lastResort", logging.StreamHandler())
    prepare_streams()
    print("Größe · 漢", flush=True)
    assert raw.getvalue() == b"Gr\\xf6\\xdfe \\xb7 \\u6f22\n"
    assert sys.stdin.readline() == "caf\udce9\n"
