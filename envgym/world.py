"""Contracts of the gym: worlds, task sets, environments, and the `info` that they return.

A class satisfies a protocol by its attributes and methods, without inheritance. `ToolWorld` plays
tasks with tools, `ForeignWorld` any Gymnasium environment with text. The dictionaries are ordinary
dicts, so Gymnasium accepts them as `info`.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NotRequired, Protocol, TypedDict, runtime_checkable

from envgym.messages import MessageDict
from envgym.tasks import Split, Task, TemplateInfo

if TYPE_CHECKING:
    import gymnasium

    from envgym.rewards.rubric import Rubric
    from envgym.sandbox import Sandbox
    from envgym.spec.environment import EnvSpec
    from envgym.terms import Term
    from envgym.tools import Tool

EpisodeStop = Literal[
    "answered",
    "closed",
    "max_turns",
    "horizon",
    "context",
    "length",
    "aborted",
    "sandbox_ended",
    "timeout",
    "terminated",
    "truncated",
    "void",
]
"""Reason for the end of an episode.

`answered`: an answer without a tool call. `closed`: a closing tool. `max_turns`: the turn limit.
`horizon`: a lower turn limit given to `reset`. `length`: the token limit cut the last answer.
`context`, `aborted`: the trainer called `abort`. `sandbox_ended`: a call of the model ended the
session. `timeout`: the time limit of the episode. `terminated`, `truncated`: a foreign environment
ended the episode without a reason.
`void`: the environment failed."""
AbortReason = Literal["context", "length", "cancelled"]
"""Reason of a trainer to abort an episode. `context`: the context has no room for another turn.
`length`: the token limit cut the answer. `cancelled`: any other reason."""
ABORT_STOPS: Mapping[AbortReason, EpisodeStop] = {
    "context": "context",
    "length": "length",
    "cancelled": "aborted",
}
"""Stop reason of each reason to abort."""


class TaskInfo(TypedDict):
    """Public properties of a task, without its hidden truth."""

    id: str
    split: str
    level: str
    template: str


class FailureInfo(TypedDict):
    """Failure of the environment that makes an episode void."""

    kind: str
    stage: str
    message: str


class VerificationInfo(TypedDict):
    """Result of a task's hidden test."""

    exit_code: int | None
    """Exit code, None if the test did not end."""
    output: str


class ResetInfo(TypedDict):
    """`info` of `reset`."""

    messages: NotRequired[list[MessageDict]]
    """Opening messages: system and user. A foreign environment has none; its observation is the
    user's message."""
    tools: NotRequired[list[dict[str, Any]]]
    """Function schemas for the chat template; empty unless `prompt.rendering` is `native`."""
    task: TaskInfo
    env_id: str
    state_hash: NotRequired[str]
    """Hash of the initial state; equal for all members of a group."""


class StepInfo(TypedDict, total=False):
    """`info` of `step` and `abort`. The keys from `stop_reason` on exist at the end only."""

    messages: list[MessageDict]
    """New messages of this turn."""
    dialect: str
    """Dialect of the answer: `none` is plain text, `invalid` an unreadable call."""
    invalid_calls: int
    """Number of invalid or rejected calls of this turn."""
    stop_reason: EpisodeStop
    success: bool | None
    """Whether the task is solved; None if that is unknown."""
    reward_parts: dict[str, float | None]
    """Raw value of each part; None for a part that was not evaluated or does not apply."""
    reward_terms: dict[str, Term]
    """Terms whose contributions sum to the reward of the episode."""
    state_diff: dict[str, Any]
    """Changed rows compared with the expected changes; empty if the episode was aborted."""
    verification: VerificationInfo | None
    """Result of the hidden test; None for a task without one."""
    tool_calls: int
    tool_errors: int
    """Number of rejected calls, failures of tools not included."""
    tool_failures: int
    """Number of calls in which a tool failed. They are neither mistakes of the model nor void."""
    tool_faults: list[str]
    """Different failures of tools, each with file and line."""
    failure: FailureInfo
    """Failure of the environment. The episode is void and its reward must be ignored."""


StepResult = tuple[str, float, bool, bool, StepInfo]
"""Observation, reward, terminated, truncated, info."""


@runtime_checkable
class Env(Protocol):
    """Environment that a `World` makes: Gymnasium's interface with text, and `abort`."""

    @property
    def task(self) -> Task | None:
        """Current task, hidden truth included; None if tasks have no truth. Never for a model."""
        ...

    def abort(self, reason: AbortReason, answer: str | None = None) -> StepResult:
        """End the running episode with the failure reward.

        A trainer that stops stepping must call it, so that stopping is never better than failing.

        Args:
            reason: Reason of the trainer.
            answer: Text of the unfinished answer, which counts as a turn. None if no token of it
                was sampled.

        Returns:
            Empty observation, reward, terminated (False), truncated (True) and `info` with all keys
            of an end.

        Raises:
            gymnasium.error.ResetNeeded: If no episode is running.
        """
        ...


class TaskSet(Protocol):
    """Tasks of one environment. A task is a pure function of its id `split/template/index`."""

    @property
    def sizes(self) -> Mapping[Split, int | None]:
        """Number of tasks by split; None if the split has no end."""
        ...

    @property
    def templates(self) -> Mapping[str, TemplateInfo]:
        """All templates by name."""
        ...

    def ids(
        self, split: Split, *, levels: Sequence[str] = (), count: int | None = None
    ) -> list[str]:
        """Return the first `count` task ids of a split; by default all of them."""
        ...

    def draw_id(
        self,
        split: Split,
        rng: random.Random,
        *,
        levels: Sequence[str] = (),
        weights: Mapping[str, float] | None = None,
    ) -> str:
        """Return a random task id of a split.

        Args:
            split: Split of the task.
            rng: Random generator.
            levels: Levels of the templates; empty for all.
            weights: Sampling weight of each template. Default: equal weights.
        """
        ...

    def task(self, task_id: str) -> Task:
        """Build the task with this id.

        Raises:
            SpecError: If there is no such task.
        """
        ...

    def templates_of(self, split: Split, *, levels: Sequence[str] = ()) -> Sequence[TemplateInfo]:
        """Return the templates of a split that have one of these levels; empty for all levels.

        Raises:
            SpecError: If there is no such template.
        """
        ...


class World(Protocol):
    """Everything that the episodes of one environment share. Safe to share between threads."""

    spec: EnvSpec

    @property
    def tasks(self) -> TaskSet: ...

    @property
    def tools(self) -> Mapping[str, Tool]:
        """Tools by name; empty if the environment has no tools of ours."""
        ...

    @property
    def rubric(self) -> Rubric | None:
        """Parts of the reward; None if rewards come from `env.step` alone."""
        ...

    @property
    def sandbox(self) -> Sandbox | None:
        """Sandbox of the tools; None if the environment has none of ours."""
        ...

    def env(
        self,
        *,
        split: Split = "train",
        levels: Sequence[str] = (),
        render_mode: str | None = None,
        owns_world: bool = False,
    ) -> gymnasium.Env[str, str]:
        """Create an environment in this world.

        Args:
            split: Default split from which `reset` draws tasks.
            levels: Default levels of the tasks drawn; empty for all.
            render_mode: None or a render mode of the environment.
            owns_world: Whether closing the environment closes the world.
        """
        ...

    def close(self) -> None:
        """Release the resources of the world. Close its environments first."""
        ...
