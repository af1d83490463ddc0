"""Parse the command line and run one command.

`envgym --help` reads the commands' docstrings; a command's file is imported when it is used.
"""

from __future__ import annotations

import argparse
import logging
import sys
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

from envgym.commands.registry import CommandFile, find_commands
from envgym.errors import EnvgymError, UsageError, did_you_mean
from envgym.secrets import FILTER, redact
from envgym.text import visible
from envgym.text.terminal import prepare_streams, print_line

EXAMPLES = """examples:
  envgym list                                   list the bundled environments
  envgym play guess                             play an episode yourself
  envgym eval crm --policy oracle               evaluate an oracle on the test tasks
  envgym check envs/crm.yaml                    test the environment and its grader
  envgym train envs/crm.yaml                    train a small model on it (needs envgym[train])
  envgym train envs/crm.yaml train.steps=60     override any setting of the YAML

To add a command, set ENVGYM_COMMANDS to a Python file that defines `add` and `run`.
"""
RENAMED = {"doctor": "preflight", "model": "fetch"}
"""Old name of a command -> new name."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Words after `envgym`. None means those of this process.

    Returns:
        The exit code.
    """
    if logging.lastResort is not None:  # prints the warnings of every package
        logging.lastResort.addFilter(FILTER)
    prepare_streams()
    try:
        return _run(sys.argv[1:] if argv is None else list(argv))
    except EnvgymError as error:
        print_line(f"envgym: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `envgym ... | head`
        sys.stderr.close()
        return 0
    except Exception:
        if (shown := redact(traceback.format_exc())) == traceback.format_exc():
            raise
        print(shown, file=sys.stderr, end="")  # a defect whose traceback has a secret
        return 1


def _run(words: Sequence[str]) -> int:
    commands = find_commands()
    _check_name(words, commands)
    parser = build_parser(commands)
    arguments, rest = parser.parse_known_args(words)
    # Settings may appear anywhere on the line; argparse accepts them only in one place.
    if rest and not (hasattr(arguments, "settings") and all(map(_is_setting, rest))):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        arguments.settings += rest
    return arguments.run(arguments) or 0


def _is_setting(word: str) -> bool:
    return "=" in word and not word.startswith("-")


def _check_name(words: Sequence[str], commands: Mapping[str, CommandFile]) -> None:
    """Raise UsageError if the first word is no command."""
    name = words[0] if words else "-"
    if name.startswith("-") or name in commands:
        return
    if name in RENAMED:
        raise UsageError(
            f"`envgym {name}` is now `envgym {RENAMED[name]}`: "
            f"{' '.join(['envgym', RENAMED[name], *words[1:]])}"
        )
    raise UsageError(
        f"no command '{name}'{did_you_mean(name, commands) or '.'} Available: {', '.join(commands)}"
    )


def build_parser(commands: Mapping[str, CommandFile] | None = None) -> argparse.ArgumentParser:
    """Return the parser of the command line.

    Args:
        commands: Commands by name. None means all commands that are found.
    """
    parser = _Parser(
        prog="envgym",
        description=(
            "Turn a YAML file with tools and tasks into an environment "
            "and train a small open model on it."
        ),
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    _add_commands(parser, find_commands() if commands is None else commands)
    return parser


def _add_commands(parser: argparse.ArgumentParser, commands: Mapping[str, CommandFile]) -> None:
    added = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=_CommandParser)
    for name, command in commands.items():
        added.add_parser(name, help=command.summary, command=command)


class _Parser(argparse.ArgumentParser):
    """Parser that prints arguments in its messages without raw control characters."""

    def _print_message(self, message: str, file: Any = None) -> None:
        super()._print_message(visible(message), file)


class _CommandParser(_Parser):
    """Parser of one command. It imports the command's file when it is used for the first time."""

    def __init__(self, *, command: CommandFile, **options: Any):
        super().__init__(
            **options,
            description=command.description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self._command: CommandFile | None = command

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:  # type: ignore
        self._import_command()
        return super().parse_known_args(args, namespace)

    def format_help(self) -> str:
        self._import_command()
        return super().format_help()

    def _import_command(self) -> None:
        command, self._command = self._command, None
        if command is None:
            return
        if command.is_group:
            _add_commands(self, command.commands())
            return
        module = command.load()
        module.add(self)
        if example := getattr(module, "EXAMPLE", ""):
            lines = "\n".join(f"  {line}" for line in example.splitlines())
            self.epilog = f"example:\n{lines}"
        self.set_defaults(run=module.run)


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from importlib.metadata import version

        print(f"envgym {version('envgym')}")
        parser.exit()
