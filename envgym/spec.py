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
from typing import Any, Literal

from pydantic import BaseModel, Field, model_validator

from envgym.block import Block
from envgym.catalog import find_env
from envgym.errors import SpecError
from envgym.loading import (
    ShortForms,
    Where,
    apply_overrides,
    place,
    read_yaml,
    validate,
    write_out_short_forms,
)
from envgym.parsing import Dialect
from envgym.reward_spec import PartSpec, check_gates
from envgym.sandbox.options import SandboxOptions
from envgym.tool_sources import OpenApiTools, ToolSource


class PromptSpec(Block):
    system: str = "You are a helpful assistant. Use the tools to do what the user asks."
    """System message; `{now}` becomes the episode's date."""
    tools: Literal["compact", "template"] = "compact"
    """`compact`: one line a tool in the system message; `template`: given to the model's chat template as JSON schemas."""
    dialects: tuple[Dialect, ...] = Field(
        default=("hermes", "fenced", "bare", "pythonic"), min_length=1
    )
    """Ways of writing a tool call that are understood; the first is the one the model is shown."""


class StateSpec(Block):
    schema_file: str | None = Field(default=None, alias="schema")
    """SQL file with the tables of one episode; none for an episode without tables."""
    seed: str | None = None
    """`file.py:function(db, seed)` that fills the tables."""
    files: str | None = None
    """`file.py:function(folder, seed)` that lays out an episode's work folder; its files are compared like a table `files`."""
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


class TasksSpec(Block):
    source: str | None = Field(default=None, alias="from")
    """Python file whose templates make the tasks; none for a foreign environment, whose tasks are seeds."""
    levels: tuple[str, ...] = ()
    """Only templates of these levels; empty for all."""
    val: int = Field(default=100, ge=1)
    """Number of validation tasks."""
    test: int = Field(default=200, ge=1)
    """Number of test tasks."""


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
    max_void: float = Field(default=0.25, ge=0, le=1)
    """Share of the last episodes (16 to 64, second attempts included) that may be void; beyond it a run or an evaluation stops."""
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
    """Sources of tools: Python files (`crm/tools.py` for every public function, `crm/tools.py:name` for one), OpenAPI documents
    likewise, whose operations work on simulated tables, live APIs (`{openapi: ..., base_url: ...}`), MCP servers (`{mcp: ...}`).
    None where tasks are answered in words (with `prompt.tools: template`)."""
    state: StateSpec = StateSpec()
    sandbox: SandboxOptions = SandboxOptions()
    tasks: TasksSpec = TasksSpec()
    reward: dict[str, PartSpec] = Field(
        default_factory=lambda: {"solved": PartSpec.model_validate({"from": "state_match"})}
    )
    """Named parts; the reward of an episode is the sum of weight x value over them. `solved` is
    `state_match` unless it is said otherwise."""
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
        if (
            isinstance(data, dict)
            and isinstance(data.get("reward"), dict)
            and "success" not in data
        ):
            return data | {"reward": {"solved": {"from": "state_match"}} | data["reward"]}
        return data

    @model_validator(mode="after")
    def _complete(self) -> EnvSpec:
        if self.gym:
            return self
        if not self.tools and self.prompt.tools == "compact":
            words = "for tasks that are answered in words set `prompt.tools: template`, for a foreign environment `gym:`"
            raise ValueError(f"tools: at least one file with tools is required; {words}")
        if self.tasks.source is None:
            raise ValueError("tasks.from: is required (or `gym:` for a foreign environment)")
        if self.success not in self.reward:
            raise ValueError(
                f"success: is '{self.success}', which is no part of reward ({', '.join(self.reward)})"
            )
        check_gates(self.reward)
        return self


def load_spec(
    name: str | Path, overrides: Iterable[str] = (), *, profile: str | None = None
) -> EnvSpec:
    """The environment in a YAML file.

    Args:
        name: path of the file, or the name or id of a known environment (`crm`, `envgym/crm-v0`).
        overrides: `key.sub=value` settings put on top.
        profile: name of a set of settings in `train.profiles` to be put between the two, such as `cpu`.
    Raises: SpecError with one `file:line: key: what` for every mistake found.
    """
    path = find_env(name)
    data, where = read_yaml(path)
    short_forms = _short_forms()
    write_out_short_forms(data, where, short_forms, at=("train",))
    overrides = list(overrides)
    for_profiles = [text for text in overrides if text.startswith("train.profiles")]
    apply_overrides(data, where, for_profiles, short_forms=short_forms)
    if profile:
        write_out_short_forms(data, where, short_forms, at=("train", "profiles", profile))
        apply_profile(data, where, profile)
    apply_overrides(data, where, overrides, short_forms=short_forms)
    return _checked(data, where, path)


def _short_forms() -> ShortForms:
    return {
        (block, key): form
        for block, model in block_models().items()
        if issubclass(model, Block)
        for key, form in model.short_forms.items()
    }


def apply_profile(data: dict[str, Any], where: Where, profile: str) -> None:
    """Puts the settings of `train.profiles.NAME` over those of `train:`; each keeps its own line."""
    train = data.get("train")
    settings = ((train if isinstance(train, dict) else {}).get("profiles") or {}).get(profile)
    if isinstance(train, dict) and isinstance(settings, dict):
        _merge(train, settings, where, ("train",), ("train", "profiles", profile))


def _merge(
    target: dict[str, Any],
    source: dict[str, Any],
    where: Where,
    to: tuple[str, ...],
    of: tuple[str, ...],
) -> None:
    for key, value in source.items():
        where[(*to, key)] = place(where, (*of, key))
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
    mistakes += [
        f"{where.get(at, path)}: {'.'.join(at)}: no such file: {path.parent / file}"
        for at, file in _missing_files(spec)
    ]
    if mistakes:
        raise SpecError("\n".join(mistakes))
    return spec


def _missing_files(spec: EnvSpec) -> Iterable[tuple[tuple[str, ...], str]]:
    named = [
        (("tools",), tool.openapi if isinstance(tool, OpenApiTools) else tool)
        for tool in spec.tools
    ]
    named = [(at, tool) for at, tool in named if isinstance(tool, str)]
    named += [(("state", "schema"), spec.state.schema_file), (("state", "seed"), spec.state.seed)]
    named += [(("state", "files"), spec.state.files)]
    named += [(("tasks", "from"), spec.tasks.source)]
    named += [(("reward", name, "from"), part.source) for name, part in spec.reward.items()]
    for at, reference in named:
        file = (reference or "").split(":")[0]
        if (
            file.endswith((".py", ".sql", ".yaml", ".yml", ".json"))
            and not (spec.root / file).is_file()
        ):
            yield at, file
    if (build := spec.sandbox.build) and not (
        spec.root / build.context / build.dockerfile
    ).is_file():
        yield ("sandbox", "build"), f"{build.context}/{build.dockerfile}"


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
