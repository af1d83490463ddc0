"""The environment's definition: what may stand in its YAML, with units, bounds and defaults.

`load_spec("crm")` or `load_spec("path/to/my.yaml", overrides=["episode.max_turns=4"])` gives an `EnvSpec`. The `train:` block
belongs to the trainer; it is checked by whatever package offers a model for it (entry-point group `envgym.blocks`).
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from datetime import datetime
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from envgym.catalog import find_env
from envgym.errors import SpecError
from envgym.loading import Where, apply_overrides, read_yaml, validate
from envgym.parsing import Dialect


class Block(BaseModel):
    """A part of the YAML: unknown keys are refused, values are frozen, and a docstring under a field describes it."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, use_attribute_docstrings=True)


class PromptSpec(Block):
    system: str = "You are a helpful assistant. Use the tools to do what the user asks."
    """System message; `{now}` becomes the episode's date."""
    tools: Literal["compact", "template"] = "compact"
    """`compact`: one line a tool in the system message; `template`: given to the model's chat template as JSON schemas."""
    dialects: tuple[Dialect, ...] = Field(default=("hermes", "fenced", "bare", "pythonic"), min_length=1)
    """Ways of writing a tool call that are understood; the first is the one the model is shown."""


class McpReset(Block):
    tool: str
    """Tool of the server that makes its state that of a seed; the model never sees it."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Its arguments; `{seed}` and `{now}` in strings are filled in, `"{seed}"` alone becomes a number."""


Reset = Annotated[
    Annotated[Literal["restart", "session", "container"], Tag("<word>")] | Annotated[McpReset, Tag("<call>")],
    Discriminator(lambda value: "<call>" if isinstance(value, dict | McpReset) else "<word>"),
]


class McpSpec(Block):
    command: tuple[str, ...] = ()
    """Starts the server in the box, in the YAML's folder: `[python, notes/server.py]`; `python` is the box's own."""
    url: str | None = Field(default=None, pattern=r"^https?://")
    """Instead of a command: a streamable HTTP endpoint, called from the host; the server is not isolated by envgym."""
    env: dict[str, str] = Field(default_factory=dict)
    """Variables for the command; ENVGYM_SEED (with `reset: restart`) and ENVGYM_NOW come by themselves."""
    reset: Reset | None = None
    """How an episode starts clean. For a command `restart`, a new process each time (the default), `container`, a fresh box, or
    `{tool: NAME}`, a call to a server that is kept. For a URL `session`, a new MCP session, or `{tool: NAME}`."""
    hidden: tuple[str, ...] = ()
    """Tools that the model never sees."""
    dump: str | None = None
    """Tool whose JSON `{table: [row, ...]}` is the whole state: tasks draw from it, and the reward compares it."""
    keys: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Table of the dump -> columns of its primary key."""
    sessions: int | None = Field(default=None, ge=1)
    """Episodes at once, others wait; 1 for a URL, whose episodes may share a state, and no limit for a command."""

    @model_validator(mode="after")
    def _complete(self) -> McpSpec:
        if bool(self.command) == bool(self.url):
            raise ValueError("give either `command` (a server in the box) or `url` (one that runs already)")
        words = ("session",) if self.url else ("restart", "container")
        if isinstance(self.reset, str) and self.reset not in words:
            raise ValueError(f"reset: '{self.reset}' is not for {'a url' if self.url else 'a command'}; {' or '.join(words)} is")
        if self.url and self.reset is None:
            raise ValueError(
                "reset: a server at a URL is not restarted; say `{tool: NAME}`, or `session` where each has its own state"
            )
        if self.dump and not self.keys:
            raise ValueError("keys: name the primary key of each table of the dump, such as `keys: {notes: [id]}`")
        return self


class McpTools(Block):
    mcp: McpSpec


ToolSource = Annotated[
    Annotated[str, Tag("<file>")] | Annotated[McpTools, Tag("<mcp>")],
    Discriminator(lambda value: "<mcp>" if isinstance(value, dict | McpTools) else "<file>"),
]


class StateSpec(Block):
    schema_file: str | None = Field(default=None, alias="schema")
    """SQL file with the tables of one episode; none for an episode without tables."""
    seed: str | None = None
    """`file.py:function(db, seed)` that fills the tables."""
    now: datetime = datetime(2026, 1, 5, 9, 0)
    """Where the episode's clock starts; tools see no other."""
    step_seconds: float = Field(default=60.0, ge=0)
    """Seconds by which the clock moves at each tool call."""
    volatile: tuple[str, ...] = ()
    """`table.column` patterns that no comparison looks at, such as `*.updated_at`."""
    allow: tuple[str, ...] = ()
    """Tables (patterns) in which changes beyond the expected ones are free, such as `audit_log`."""
    forbid: tuple[str, ...] = ()
    """Tables (patterns) in which any change that is not expected makes the whole reward 0."""


class SandboxSpec(Block):
    backend: Literal["auto", "docker", "local", "none"] = "auto"
    """`auto` takes Docker where an engine answers, else a local process; `none` runs tools in this very process."""
    isolation: Literal["state", "fork"] = "fork"
    """What separates two episodes of one box: their tables only, or a process each."""
    image: str = "python:3.12-slim"
    """Container image; needs Python 3.11 or later."""
    memory_mb: int = Field(default=512, ge=32)
    """Memory limit of a container, MiB."""
    cpus: float = Field(default=1.0, gt=0)
    """CPU limit of a container, cores."""
    pids: int = Field(default=256, ge=16)
    """Processes and threads that a container may hold."""
    tmpfs_mb: int = Field(default=32, ge=1)
    """Size of a container's only writable folder, /tmp, MiB."""
    output_bytes: int = Field(default=65536, ge=256)
    """Output of one tool call that is kept, bytes."""
    open_seconds: float = Field(default=30.0, gt=0)
    """Time allowed to start a box, and to open an episode in it."""


class TasksSpec(Block):
    source: str | None = Field(default=None, alias="from")
    """Python file whose templates make the tasks; none for a foreign environment, whose tasks are seeds."""
    levels: tuple[str, ...] = ()
    """Only templates of these levels; empty for all."""
    val: int = Field(default=100, ge=1)
    """Number of validation tasks."""
    test: int = Field(default=200, ge=1)
    """Number of test tasks."""


class PartSpec(Block):
    source: str = Field(alias="from")
    """A part that envgym ships (`state_match`), `file.py:function` or `package.module:function`."""
    weight: float = 1.0
    """Factor in the sum; 0 makes it a metric that is logged and not rewarded."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of the part."""


class EpisodeSpec(Block):
    max_turns: int = Field(default=8, ge=1)
    """Answers of the model after which the episode is cut (truncated)."""
    spare_turns: int | None = Field(default=None, ge=0)
    """Answers allowed beyond those that the task's oracle needs, where it has one; none for `max_turns` alone."""
    max_calls_per_turn: int = Field(default=4, ge=1)
    """Tool calls that one answer may hold."""
    closes_with: tuple[str, ...] = ()
    """Tools whose successful call ends the episode."""
    tool_seconds: float = Field(default=10.0, gt=0)
    """Time allowed to one tool call."""
    timeout_seconds: float | None = Field(default=None, gt=0)
    """Wall time allowed to a whole episode, sampling included; beyond it the episode is void."""
    observation_chars: int = Field(default=2000, ge=64)
    """Characters of one tool's answer that the model is shown; the rest is cut with a marker."""
    success_reward: float = 1.0
    """For a foreign Gymnasium environment (`gym:`) that reports no success: the total reward that counts as one."""


class EnvSpec(Block):
    """One environment."""

    id: str = Field(pattern=r"^([\w.-]+/)?[\w.-]+-v\d+$")
    """Gymnasium id, such as `acme/crm-v0`."""
    description: str = ""
    gym: str | None = None
    """Id of a foreign Gymnasium text environment (`package:Env-v0`) to use instead of tools and tasks of our own."""
    prompt: PromptSpec = PromptSpec()
    tools: tuple[ToolSource, ...] = ()
    """Python files with tools: `crm/tools.py` for every public function, `crm/tools.py:name` for one. MCP servers: `{mcp: ...}`."""
    state: StateSpec = StateSpec()
    sandbox: SandboxSpec = SandboxSpec()
    tasks: TasksSpec = TasksSpec()
    reward: dict[str, PartSpec] = Field(default_factory=lambda: {"solved": PartSpec.model_validate({"from": "state_match"})})
    """Named parts; the reward of an episode is their weighted sum. `solved` is `state_match` unless it is said otherwise."""
    success: str = "solved"
    """The part that says whether a task was solved (value 1)."""
    episode: EpisodeSpec = EpisodeSpec()
    train: dict[str, Any] = Field(default_factory=dict)
    """Settings of the trainer; `envgym schema` shows them where the trainer is installed."""
    path: Path = Field(default=Path(), exclude=True)
    """The YAML file itself (filled in by `load_spec`)."""

    @property
    def root(self) -> Path:
        """Folder to which the files named in the YAML are relative."""
        return self.path.parent

    @model_validator(mode="before")
    @classmethod
    def _solved_by_default(cls, data: Any) -> Any:
        """A YAML that only adds parts keeps `solved`."""
        if isinstance(data, dict) and isinstance(data.get("reward"), dict) and "success" not in data:
            return data | {"reward": {"solved": {"from": "state_match"}} | data["reward"]}
        return data

    @model_validator(mode="after")
    def _complete(self) -> EnvSpec:
        if self.gym:
            return self
        if not self.tools:
            raise ValueError("tools: at least one file with tools is required (or `gym:` for a foreign environment)")
        if self.tasks.source is None:
            raise ValueError("tasks.from: is required (or `gym:` for a foreign environment)")
        if self.success not in self.reward:
            raise ValueError(f"success: is '{self.success}', which is no part of reward ({', '.join(self.reward)})")
        return self


def load_spec(name: str | Path, overrides: Iterable[str] = (), *, profile: str | None = None) -> EnvSpec:
    """The environment in a YAML file.

    Args:
        name: path of the file, or the name or id of a known environment (`crm`, `envgym/crm-v0`).
        overrides: `key.sub=value` settings put on top.
        profile: name of a set of settings in `train.profiles` to be put between the two, such as `cpu`.
    Raises: SpecError with one `file:line: key: what` for every mistake found.
    """
    path = find_env(name)
    data, where = read_yaml(path)
    if profile:
        apply_profile(data, where, profile)
    apply_overrides(data, where, overrides)
    return _checked(data, where, path)


def apply_profile(data: dict[str, Any], where: Where, profile: str) -> None:
    """Puts the settings of `train.profiles.NAME` over those of `train:`; each keeps its own line."""
    train = data.get("train")
    settings = ((train if isinstance(train, dict) else {}).get("profiles") or {}).get(profile)
    if isinstance(train, dict) and isinstance(settings, dict):
        _merge(train, settings, where, ("train",), ("train", "profiles", profile))


def _merge(target: dict[str, Any], source: dict[str, Any], where: Where, to: tuple[str, ...], of: tuple[str, ...]) -> None:
    for key, value in source.items():
        where[(*to, key)] = where[(*of, key)]
        if isinstance(value, dict) and isinstance(target.get(key), dict):
            _merge(target[key], value, where, (*to, key), (*of, key))
        else:
            target[key] = value


def _checked(data: dict[str, Any], where: Where, path: Path) -> EnvSpec:
    mistakes = []
    for block, model in block_models().items():
        try:
            validate(model, data.get(block) or {}, where, at=(block,))
        except SpecError as error:
            mistakes.append(str(error))
    data["train"] = data.get("train") or {}
    try:
        spec = validate(EnvSpec, data | {"path": path}, where)
    except SpecError as error:
        raise SpecError("\n".join([str(error), *mistakes])) from None
    mistakes += [f"{where.get(at, path)}: {'.'.join(at)}: no such file: {path.parent / file}" for at, file in _missing_files(spec)]
    if mistakes:
        raise SpecError("\n".join(mistakes))
    return spec


def _missing_files(spec: EnvSpec) -> Iterable[tuple[tuple[str, ...], str]]:
    named = [(("tools",), tool) for tool in spec.tools if isinstance(tool, str)]
    named += [(("state", "schema"), spec.state.schema_file), (("state", "seed"), spec.state.seed)]
    named += [(("tasks", "from"), spec.tasks.source)]
    named += [(("reward", name, "from"), part.source) for name, part in spec.reward.items()]
    for at, reference in named:
        file = (reference or "").split(":")[0]
        if file.endswith((".py", ".sql")) and not (spec.root / file).is_file():
            yield at, file


@functools.cache
def block_models() -> dict[str, type[BaseModel]]:
    """Models of the blocks that other packages own, by key (`train`)."""
    return {point.name: point.load() for point in entry_points(group="envgym.blocks")}


def json_schema() -> dict[str, Any]:
    """JSON schema of the whole YAML, the trainer's block included where it is installed."""
    schema = EnvSpec.model_json_schema(by_alias=True)
    schema["properties"].pop("path", None)
    for block, model in block_models().items():
        inner = model.model_json_schema(by_alias=True)
        schema.setdefault("$defs", {}).update(inner.pop("$defs", {}))
        schema["properties"][block] = inner
    return schema
