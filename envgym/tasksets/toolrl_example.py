"""One example in ToolRL's format."""

from __future__ import annotations

from dataclasses import dataclass

from envgym.tasks import Split


@dataclass(frozen=True, slots=True)
class ToolRLExample:
    """One step of a dialogue: the model's input and a correct answer."""

    system: str
    """Instructions, with the tools as a list of `1. Name: ...`, `Description: ...`, `Parameters:
    ...`. May be empty."""
    user: str
    """The request, or the whole dialogue up to this step."""
    truth: str
    """Hidden: correct answer, `<think>...</think>` with `<tool_call>`, `<response>` or both."""
    where: str
    """`file:line`, for error messages."""
    group: str
    """First request of the dialogue. Rows of one group go to the same split, because a later step
    contains the truth of an earlier one."""
    split: Split | None = None
    """Split given in the data, if any."""

    @property
    def prompt(self) -> str:
        """System and user text as one message, because a task has no system text."""
        return f"{self.system.strip()}\n\n{self.user.strip()}".strip()
