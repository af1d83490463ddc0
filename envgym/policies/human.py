"""Policy played by a person at the terminal: print the messages and read one line as the answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from envgym.messages import Message
from envgym.policies import Completion
from envgym.tasks import Task
from envgym.text import terminal, visible
from envgym.tools import Tool, render_compact

if TYPE_CHECKING:
    from envgym.world import World

COLOURS = {"system": "dim", "user": "bold cyan", "assistant": "green", "tool": "yellow"}


class HumanPolicy:
    """Read answers from the keyboard. End of input (Ctrl-D) ends the episode.

    Args:
        console: Console on which messages are printed.
        read: Function that returns one line for a prompt and raises EOFError at the end of input.
    """

    def __init__(self, *, console: Console | None = None, read: Callable[[str], str] = input):
        self.console = console or terminal.Console()
        self._read = read

    def open(
        self,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]],
        *,
        seed: int,
        task: Task | None = None,
    ) -> HumanDialogue:
        if tools:  # otherwise the environment's system message lists them
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
            # An empty answer would not do: a foreign environment would treat it as a move and ask
            # again forever.
            return Completion("", stop_reason="context")

    def observe(self, messages: Sequence[Message]) -> None:
        for message in messages:
            label = f"{message.role} {message.name}" if message.name else message.role
            self._console.print(
                Text(visible(f"[{label}] {message.content}"), style=COLOURS[message.role])
            )

    def trace(self) -> None:
        return None

    def close(self) -> None:
        """Do nothing; there are no resources to release."""


def open_policy(argument: str, world: World) -> HumanPolicy:
    """Return the policy; both arguments are ignored."""
    return HumanPolicy()
