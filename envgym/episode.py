"""Record of one episode: messages, tokens, rewards and failures as one frozen value.

`play` creates it, the trainer learns from it and `episodes.jsonl` stores it. A void episode
(`failure` is set) has no reward.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from envgym.messages import Message
from envgym.policies import StopReason, TokenTrace
from envgym.secrets import redacted
from envgym.terms import Term
from envgym.text import clean, to_json

SCHEMA_VERSION = 1
"""Version of the record's fields. It is raised when a field is renamed, removed or changed."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Failure of the environment that made an episode, or its first attempt, void."""

    kind: str
    stage: str
    message: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "message", clean(self.message))


@dataclass(frozen=True, slots=True)
class Episode:
    """One episode from `reset` to its end."""

    env_id: str
    task_id: str
    """Id of the task; empty if a Gymnasium environment is played directly, without tasks."""
    split: str
    level: str
    template: str
    seed: int
    """Seed of the policy's sampling. The task has a separate seed for the state."""
    messages: tuple[Message, ...]
    tokens: TokenTrace | None
    """Tokens of the dialogue; None if the policy has no tokens."""
    reward: float | None
    """Sum of all rewards of the episode; None if the episode is void."""
    reward_parts: dict[str, float | None] = field(default_factory=dict)
    """Raw value of each part of the rubric by name; None for a part that does not apply or was not
    evaluated."""
    reward_terms: dict[str, Term] = field(default_factory=dict)
    """Term of each part by name. The contributions sum to `reward`. Empty for a foreign
    environment."""
    success: bool | None = None
    """Whether the task was solved; None if the episode is void or the environment does not report
    it."""
    state_diff: dict[str, Any] = field(default_factory=dict)
    """Changed rows compared with the expected changes, in the form of `Verdict.to_dict`."""
    stop_reason: str = ""
    """Reason for the end, an `envgym.world.EpisodeStop`. A foreign environment may give another."""
    terminated: bool = False
    truncated: bool = False
    turns: int = 0
    """Number of answers, an unfinished last one included."""
    tool_calls: int = 0
    tool_errors: int = 0
    """Number of rejected calls: unknown tool, invalid argument, refused by the tool, or not made
    because of a limit."""
    tool_failures: int = 0
    """Number of calls in which a tool failed. They are neither mistakes of the model nor void."""
    tool_faults: tuple[str, ...] = ()
    """Different failures of tools, each with file and line, for the author of the tools."""
    turn_rewards: tuple[float, ...] = ()
    """Reward that `step` returned at each turn. They sum to `reward`, unless the episode was
    aborted before its first answer. Often 0 until the last turn."""
    turn_stops: tuple[StopReason, ...] = ()
    """Reason for the end of each answer: `stop`, `length` (token limit of an answer) or `context`
    (the context is full)."""
    advantage: float | None = None
    """Group-relative advantage, the mean over its sampled tokens; None if the episode was not
    trained on."""
    advantage_parts: dict[str, float] = field(default_factory=dict)
    """Contribution of each term to the advantage by name. The contributions sum to `advantage`."""
    turn_invalid_calls: tuple[int, ...] = ()
    """Number of invalid or rejected tool calls at each turn, from `info["invalid_calls"]`."""
    dialects: dict[str, int] = field(default_factory=dict)
    """Number of turns by dialect: `pythonic`, `hermes`, ..., `none` (plain text), `invalid`."""
    start_hash: str = ""
    """Hash of the state at reset; equal for all members of a group."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall time in seconds by place: `policy`, `env`, and `lost`, the part of `env` that was spent
    outside of tools."""
    failure: Failure | None = None
    """Failure of the environment, which makes the episode void."""
    retried_failure: Failure | None = None
    """Failure of the first attempt, if this record is the retry with the same task and seed
    (`play_many`)."""
    policy: str = ""
    """Name of the policy that played, as in the table of the evaluation. In a training run, the
    name of the evaluation or the phase; empty if it is unknown."""

    @property
    def is_void(self) -> bool:
        """Whether the environment failed. Such an episode has no reward."""
        return self.failure is not None

    @property
    def is_clipped(self) -> bool:
        """Whether a token limit cut the last answer, or the context had no room for another."""
        limits = ("length", "context")
        last = self.turn_stops[-1] if self.turn_stops else "stop"
        return last in limits or self.stop_reason in limits

    @property
    def last_assistant_message(self) -> str:
        """Last message of the model; empty if there is none."""
        return next(
            (message.content for message in reversed(self.messages) if message.role == "assistant"),
            "",
        )

    @property
    def failures(self) -> tuple[Failure, ...]:
        """All failures of the environment: of the first attempt, then of this one."""
        return tuple(
            failure for failure in (self.retried_failure, self.failure) if failure is not None
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the record as plain values, with the key `schema_version` first.

        Secrets of this process are replaced by placeholders.
        """
        plain = dataclasses.asdict(self)
        tokens = plain["tokens"]
        return (
            {"schema_version": SCHEMA_VERSION}
            | redacted(plain | {"tokens": None})
            | {"tokens": tokens}
        )

    def to_json(self) -> str:
        """Return the record as one line of `episodes.jsonl`: one strict JSON document."""
        return to_json(self.to_dict())

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Episode:
        """Build an episode from the values of `to_dict`.

        Keys that a log adds (`step`, `phase`) are ignored.

        Raises:
            ValueError: If the record has another schema version.
        """
        version = plain.get("schema_version")
        if version != SCHEMA_VERSION:
            raise ValueError(
                f"the episode record has schema version {version}, and this version of envgym "
                f"reads {SCHEMA_VERSION}; read it with the version that wrote it"
            )
        names = {f.name for f in dataclasses.fields(cls)}
        values = {name: value for name, value in plain.items() if name in names}
        values["messages"] = tuple(Message.from_dict(message) for message in values["messages"])
        values["tokens"] = _trace(values["tokens"])
        for name in ("turn_rewards", "turn_invalid_calls", "turn_stops", "tool_faults"):
            values[name] = tuple(values.get(name, ()))
        values["reward_terms"] = {
            name: Term(**term | {"by_turn": tuple(term["by_turn"])})
            for name, term in values.get("reward_terms", {}).items()
        }
        for name in ("failure", "retried_failure"):
            values[name] = Failure(**values[name]) if values.get(name) else None
        return cls(**values)

    @classmethod
    def from_json(cls, line: str) -> Episode:
        """Build an episode from a line of `episodes.jsonl`.

        Raises:
            ValueError: If the line is no JSON or has another schema version.
        """
        return cls.from_dict(json.loads(line))


def _trace(plain: Mapping[str, Any] | None) -> TokenTrace | None:
    if not plain:
        return None
    return TokenTrace(*(tuple(plain.get(f.name, ())) for f in dataclasses.fields(TokenTrace)))
