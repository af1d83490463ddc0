"""Evidence of an episode: everything that a reward part may use."""

from __future__ import annotations

from dataclasses import dataclass

from envgym.messages import ToolCall
from envgym.rewards.row_pairs import RowDiff
from envgym.rewards.state_diff import Verdict
from envgym.sandbox import Verification
from envgym.tasks import Task


@dataclass(frozen=True, slots=True)
class CallRecord:
    """Record of one attempted tool call."""

    turn: int
    call: ToolCall
    ok: bool
    """False if the call was rejected (unknown tool, invalid argument, refused by the tool, not made
    because of a limit) or if the tool failed."""
    text: str
    """Observation returned to the model."""
    seconds: float = 0.0
    fault: str = ""
    """Failure of the tool with file and line, which is no mistake of the model. Empty if the tool
    did not fail."""

    @property
    def is_rejected(self) -> bool:
        """Whether the call is a mistake of the model."""
        return not self.ok and not self.fault


@dataclass(frozen=True, slots=True)
class Evidence:
    """Input of a reward part: the task, the calls, the changed rows and the final message."""

    task: Task
    calls: tuple[CallRecord, ...]
    changed_rows: tuple[RowDiff, ...]
    """All rows that differ from the initial state."""
    verdict: Verdict
    """Comparison of the changed rows with the task's expected changes."""
    final_message: str
    """Last message, if it is an answer without a tool call; otherwise empty."""
    turns: int
    dialects: dict[str, int]
    """Number of turns by dialect; `none` is plain text, `invalid` a malformed call."""
    verification: Verification | None = None
    """Result of the task's hidden test command; None for a task without a test."""
    assistant_messages: tuple[str, ...] = ()
    """Exact text of the model at each turn."""
    step: int = 0
    """Training step of the episode, for parts with a schedule; 0 outside of training."""
