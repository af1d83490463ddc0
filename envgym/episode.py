"""Record of one episode: messages, tokens, rewards and failures as one frozen value.

`play` creates it, the trainer learns from it and `episodes.jsonl` stores it. A void episode
(`failure` is set) has no reward.
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
    """Failure of the environment that made an episode, or its first attempt, void."""

    kind: str
    stage: str
    message: str


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
    """Raw value of each part of the rubric by name; None for a part that does not apply."""
    reward_terms: dict[str, Term] = field(default_factory=dict)
    """Term of each part by name. The contributions sum to `reward`. Empty for a foreign
    environment."""
    success: bool | None = None
    """Whether the task was solved; None if the episode is void or the environment does not report
    it."""
    state_diff: dict[str, Any] = field(default_factory=dict)
    """Changed rows compared with the expected changes, in the form of `Verdict.to_dict`."""
    stop_reason: str = ""
    """Reason for the end: `answered`, `closed`, `max_turns`, `length`, `context`, `timeout`,
    `terminated`, `truncated`, `horizon` (truncated before the usual turn limit), `broken_off` (the
    model's code terminated the session) or `void`."""
    terminated: bool = False
    truncated: bool = False
    turns: int = 0
    tool_calls: int = 0
    tool_errors: int = 0
    """Number of rejected calls: unknown tool, invalid argument, or an error raised by the tool."""
    turn_rewards: tuple[float, ...] = ()
    """Reward that `step` returned at each turn. They sum to `reward`. Often 0 until the last
    turn."""
    advantage: float | None = None
    """Group-relative advantage, the mean over its sampled tokens; None if the episode was not
    trained on."""
    advantage_parts: dict[str, float] = field(default_factory=dict)
    """Contribution of each term to the advantage by name. The contributions sum to `advantage`."""
    turn_mistakes: tuple[int, ...] = ()
    """Number of invalid or rejected tool calls at each turn, if `info["mistakes"]` reports it."""
    parse_modes: dict[str, int] = field(default_factory=dict)
    """Number of turns by dialect: `pythonic`, `hermes`, ..., `none` (plain text), `invalid`."""
    start_hash: str = ""
    """Hash of the state at reset; equal for all members of a group."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall time in seconds by place: `policy`, `env`."""
    failure: Failure | None = None
    first_failure: Failure | None = None
    """Failure of the first attempt, if this record is the retry with the same task and seed
    (`play_many`)."""

    @property
    def void(self) -> bool:
        return self.failure is not None

    @property
    def last_said(self) -> str:
        """Last message of the model; empty if there is none."""
        return next(
            (message.content for message in reversed(self.messages) if message.role == "assistant"),
            "",
        )

    @property
    def failures(self) -> tuple[Failure, ...]:
        """All failures of the environment: of the first attempt, then of this one."""
        return tuple(
            failure for failure in (self.first_failure, self.failure) if failure is not None
        )

    def to_json(self) -> str:
        """Return the record as one line of `episodes.jsonl`."""
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, line: str) -> Episode:
        """Build an episode from a line of `episodes.jsonl`.

        Keys that a log adds (`step`, `phase`) are ignored.
        """
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
