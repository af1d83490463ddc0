"""A person at the terminal plays: messages are shown, one line is read as the answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from envgym.messages import Message
from envgym.policies import Completion
from envgym.tasks import Task
from envgym.tools import Tool, render_compact

COLOURS = {"system": "dim", "user": "bold cyan", "assistant": "green", "tool": "yellow"}


class HumanPolicy:
    """Reads answers from the keyboard. End of input (Ctrl-D) ends the episode.

    Args:
        console: where messages are shown.
        read: gives one line for a prompt; raises EOFError at the end of input.
    """

    def __init__(self, *, console: Console | None = None, read: Callable[[str], str] = input):
        self.console = console or Console()
        self._read = read

    def open(
        self,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]],
        *,
        seed: int,
        task: Task | None = None,
    ) -> HumanDialogue:
        if tools:  # else they stand in the system message
            messages = [
                Message("system", render_compact(Tool.from_schema(tool) for tool in tools)),
                *messages,
            ]
        return HumanDialogue(messages, self.console, self._read)


class HumanDialogue:
    """One conversation with a person."""

    def __init__(self, messages: Sequence[Message], console: Console, read: Callable[[str], str]):
        self._console = console
        self._read = read
        self.observe(messages)

    def reply(self) -> Completion:
        try:
            return Completion(self._read("> "))
        except EOFError:
            self._console.print(Text("End of input: the episode stops here.", style="dim"))
            # Not an answer: a foreign environment would take an empty one for a move and ask again, for ever.
            return Completion("", stop_reason="context")

    def observe(self, messages: Sequence[Message]) -> None:
        for message in messages:
            label = f"{message.role} {message.name}" if message.name else message.role
            self._console.print(
                Text(f"[{label}] {printable(message.content)}", style=COLOURS[message.role])
            )

    def trace(self) -> None:
        return None

    def close(self) -> None:
        """Holds nothing."""


def printable(text: str) -> str:
    """The text without control characters: what a tool gives back must not steer the terminal."""
    return "".join(letter if letter.isprintable() or letter in "\n\t" else "�" for letter in text)
