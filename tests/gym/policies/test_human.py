"""A person as the policy: displayed text and parsed input."""

import io

from rich.console import Console

from envgym.messages import Message
from envgym.policies.human import HumanPolicy
from envgym.tools import to_openai
from tests.fakes.phones import OPENING, UPDATE


def human(*lines: str):
    remaining = list(lines)

    def read(prompt: str) -> str:
        if not remaining:
            raise EOFError
        return remaining.pop(0)

    screen = io.StringIO()
    return HumanPolicy(console=Console(file=screen, width=100), read=read), screen


def test_a_person_sees_the_messages_and_types_the_answer():
    policy, screen = human("Hello [bold]you[/bold]")
    dialogue = policy.open(OPENING, to_openai([UPDATE]), seed=0)
    assert dialogue.reply().text == "Hello [bold]you[/bold]"
    dialogue.observe([Message("tool", "saved [red]1[/red] \x1b[2J", name="update")])
    assert "update(id: str, phone: str, page: int = ...)" in screen.getvalue()
    assert "[user] Set the phone of C17." in screen.getvalue()
    assert "[tool update] saved [red]1[/red] \\x1b[2J" in screen.getvalue()


def test_the_end_of_input_ends_the_episode():
    policy, screen = human()
    completion = policy.open(OPENING, (), seed=0).reply()
    assert completion.stop_reason == "context"
    assert "the episode stops here" in screen.getvalue()
