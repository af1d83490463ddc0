"""The record of one episode: everything that was said, done, sampled and scored, as one plain value.

`play` makes it, the trainer learns from it, `episodes.jsonl` keeps it. A void episode (`failure` is set) has no reward.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

from envgym.messages import Message
from envgym.policies import TokenTrace
from envgym.terms import Term


@dataclass(frozen=True, slots=True)
class Failure:
    """How the world broke; the episode counts for nothing but this."""

    kind: str
    stage: str
    message: str


@dataclass(frozen=True, slots=True)
class Episode:
    """One episode from `reset` to its end."""

    env_id: str
    task_id: str
    """Empty for a foreign Gymnasium environment, which has no tasks of ours."""
    split: str
    level: str
    template: str
    seed: int
    """Seed of the policy's sampling; the state's seed belongs to the task."""
    messages: tuple[Message, ...]
    tokens: TokenTrace | None
    """None for policies without tokens."""
    reward: float | None
    """Sum of all rewards of the episode; None when void."""
    reward_parts: dict[str, float | None] = field(default_factory=dict)
    """Name -> what each part of the rubric said; None where it did not apply."""
    reward_terms: dict[str, Term] = field(default_factory=dict)
    """Name -> each part's share; the contributions sum to `reward`. Empty for a foreign environment."""
    success: bool | None = None
    """Whether the task was solved; None when void or unknown to the environment."""
    state_diff: dict[str, Any] = field(default_factory=dict)
    """What changed in the tables and what should have; see `envgym.rewards.state_diff`."""
    stop_reason: str = ""
    """Why it ended: `answered`, `closed`, `max_turns`, `length`, `context`, `timeout`, `terminated`, `truncated`, `horizon` (cut
    before its own turn limit), `broken_off` (its own code ended the session) or `void`."""
    terminated: bool = False
    truncated: bool = False
    turns: int = 0
    tool_calls: int = 0
    tool_errors: int = 0
    """Calls that were refused: unknown tool, wrong argument, or the tool's own refusal."""
    turn_rewards: tuple[float, ...] = ()
    """What `step` gave for each turn; they sum to `reward`. Worlds that score at the end give 0 until then."""
    advantage: float | None = None
    """How much better than its siblings it was, the mean over its sampled tokens; None where it was not learned from."""
    advantage_parts: dict[str, float] = field(default_factory=dict)
    """Name -> each term's share in the advantage; they sum to it."""
    turn_mistakes: tuple[int, ...] = ()
    """Refused or unreadable tool calls of each turn, where the environment tells (`info["mistakes"]`)."""
    parse_modes: dict[str, int] = field(default_factory=dict)
    """How often each dialect was read from the model's turns: `pythonic`, `hermes`, ..., `none` (plain text), `invalid`."""
    start_hash: str = ""
    """Hash of the state at reset; equal within a group."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall seconds by place: `policy`, `env`."""
    failure: Failure | None = None
    first_failure: Failure | None = None
    """How the first attempt broke, when this is the second one at the same task with the same seed (`play_many`)."""

    @property
    def void(self) -> bool:
        return self.failure is not None

    @property
    def last_said(self) -> str:
        """The model's last message; empty where it said nothing."""
        return next(
            (message.content for message in reversed(self.messages) if message.role == "assistant"),
            "",
        )

    @property
    def failures(self) -> tuple[Failure, ...]:
        """Every failure of the world on the way to this record: of the first attempt, and of the second."""
        return tuple(
            failure for failure in (self.first_failure, self.failure) if failure is not None
        )

    def to_json(self) -> str:
        """One line of `episodes.jsonl`."""
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, line: str) -> Episode:
        """The episode of such a line; what a log adds in front (`step`, `phase`) is left out."""
        names = {f.name for f in dataclasses.fields(cls)}
        plain = {name: value for name, value in json.loads(line).items() if name in names}
        plain["messages"] = tuple(Message.from_dict(message) for message in plain["messages"])
        tokens = plain["tokens"]
        plain["tokens"] = (
            TokenTrace(*(tuple(tokens[f.name]) for f in dataclasses.fields(TokenTrace)))
            if tokens
            else None
        )
        for name in ("turn_rewards", "turn_mistakes"):
            plain[name] = tuple(plain.get(name, ()))
        terms = plain.get("reward_terms", {})
        plain["reward_terms"] = {
            name: Term(**term | {"by_turn": tuple(term["by_turn"])}) for name, term in terms.items()
        }
        for name in ("failure", "first_failure"):
            plain[name] = Failure(**plain[name]) if plain.get(name) else None
        return cls(**plain)
