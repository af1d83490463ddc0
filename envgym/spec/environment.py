"""Schema of an environment's YAML, with units, bounds and defaults.

`load_spec("crm")` or `load_spec("path/to/my.yaml", overrides=["episode.max_turns=4"])` returns an
`EnvSpec`. The `train:` block belongs to the trainer. It is validated by the package that provides a
model for it (entry-point group `envgym.blocks`).
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, PrivateAttr, model_validator

from envgym.block import Block
from envgym.errors import SpecError
from envgym.sandbox.options import SandboxOptions
from envgym.spec.catalog import find_env
from envgym.spec.file_names import missing_files
from envgym.spec.late_values import reference_places, refill, warn_of_literals
from envgym.spec.old_keys import outdated
from envgym.spec.prompt import PromptSpec
from envgym.spec.reward import PartSpec, check_gates
from envgym.spec.tool_sources import ToolSource
from envgym.spec.yaml_file import (
    ShortForms,
    Where,
    apply_overrides,
    place,
    read_yaml,
    validate,
    write_out_short_forms,
)
from envgym.values import FLOAT_TOLERANCE


class StateSpec(Block):
    """Tables and files of one episode, and the comparison with their start."""

    schema_file: str | None = Field(default=None, alias="schema")
    """SQL file that creates the tables of one episode. Default: no tables."""
    seed: str | None = None
    """`file.py:function(db, seed)` that fills the tables."""
    files: str | None = None
    """`file.py:function(folder, seed)` that creates an episode's work folder. Its files are
    compared like a table named `files`."""
    clock_start: datetime = datetime(2026, 1, 5, 9, 0)
    """Start of the episode's clock. Tools see no other time."""
    clock_step_seconds: float = Field(default=60.0, ge=0)
    """Seconds by which the clock advances at each tool call."""
    volatile: tuple[str, ...] = ()
    """`table.column` patterns that comparisons ignore, such as `*.updated_at`."""
    free_text: tuple[str, ...] = ()
    """`table.column` patterns of free text, such as `notes.text`. It meets an expected text without
    regard to case and white space. All other text compares exactly, and so do keys, foreign keys
    and files."""
    float_tolerance: float = Field(default=FLOAT_TOLERANCE, ge=0, lt=1)
    """Relative tolerance with which a float meets an expected number. Two whole numbers always
    compare exactly."""
    allow: tuple[str, ...] = ()
    """Tables (patterns) in which unexpected changes are allowed, such as `audit_log`."""
    forbid: tuple[str, ...] = ()
    """Tables (patterns) in which an unexpected change gives the episode the failure reward."""


class TasksSpec(Block):
    """Source and number of tasks."""

    source: str | None = Field(default=None, alias="from")
    """Python file with the task templates. Not used with `gym:`, whose tasks are seeds."""
    levels: tuple[str, ...] = ()
    """Levels of the templates to use; empty for all."""
    val: int = Field(default=100, ge=1)
    """Number of validation tasks."""
    test: int = Field(default=200, ge=1)
    """Number of test tasks."""


class RefusalSpec(Block):
    """Tool call that refuses a request."""

    tool: str
    """Name of the tool."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Arguments of the call."""


class EpisodeSpec(Block):
    """Limits of one episode."""

    max_turns: int = Field(default=8, ge=1)
    """Number of model answers after which the episode is truncated."""
    spare_turns: int | None = Field(default=None, ge=0)
    """Number of answers allowed in addition to those that the task's oracle needs, if the task has
    an oracle. By default only `max_turns` applies."""
    max_calls_per_turn: int = Field(default=4, ge=1)
    """Maximum number of tool calls in one answer."""
    closing_tools: tuple[str, ...] = ()
    """Tools that end the episode when a call to them succeeds."""
    refusal: RefusalSpec | None = None
    """Tool call that refuses a request, for the policy `refuse`. None refuses in words."""
    tool_timeout_seconds: float = Field(default=10.0, gt=0)
    """Time limit of one tool call in seconds. The call is stopped and the model sees an
    observation."""
    timeout_seconds: float | None = Field(default=None, gt=0)
    """Time limit of a whole episode in seconds of wall time, sampling included, but without the
    time that the environment loses outside of tools. If it is exceeded, the episode is truncated
    and its state is graded."""
    max_void_fraction: float = Field(default=0.25, ge=0, le=1)
    """Maximum fraction of void episodes among the last 16 to 64, retries included. If it is
    exceeded, the run or evaluation stops."""
    max_observation_chars: int = Field(default=2000, ge=64)
    """Maximum number of characters of one tool's answer shown to the model. The rest is replaced by
    a marker."""
    success_reward: float = 1.0
    """Total reward at which an episode counts as success, for a foreign Gymnasium environment
    (`gym:`) that does not report success."""


class EnvSpec(Block):
    """Definition of one environment."""

    id: str = Field(pattern=r"^([\w.-]+/)?[\w.-]+-v\d+$")
    """Gymnasium id, such as `acme/crm-v0`."""
    description: str = ""
    """One sentence about the environment, shown by `envgym list`."""
    gym: str | None = None
    """Id of a foreign Gymnasium text environment (`package:Env-v0`), used instead of `tools`
    and `tasks`."""
    prompt: PromptSpec = PromptSpec()
    tools: tuple[ToolSource, ...] = ()
    """Sources of tools: Python files (`crm/tools.py` for every public function, `crm/tools.py:name`
    for one), OpenAPI documents in the same form, whose operations use simulated tables, live APIs
    (`{openapi: ..., base_url: ...}`) and MCP servers (`{mcp: ...}`). May be empty if tasks are
    answered in words (write `tools: []`)."""
    state: StateSpec = StateSpec()
    sandbox: SandboxOptions = SandboxOptions()
    tasks: TasksSpec = TasksSpec()
    reward: dict[str, PartSpec] = Field(
        default_factory=lambda: {"solved": PartSpec.model_validate({"from": "state_match"})}
    )
    """Named parts of the reward. The reward of an episode is the sum of weight x value over them.
    By default `solved` is `state_match`."""
    success: str = "solved"
    """Name of the part that defines success: a task is solved if its value is at least 1."""
    episode: EpisodeSpec = EpisodeSpec()
    train: dict[str, Any] = Field(default_factory=dict)
    """Settings of the trainer. `envgym schema` includes them if the trainer is installed."""
    path: Path = Field(default=Path(), exclude=True)
    """Path of the YAML file, set by `load_spec`."""
    _places: dict[tuple[str | int, ...], str] = PrivateAttr(default_factory=dict)

    @classmethod
    def outdated_keys(cls, data: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], str]]:
        return outdated(data)

    @property
    def is_foreign(self) -> bool:
        """Whether a foreign Gymnasium environment defines tasks, rewards and turn limit."""
        return self.gym is not None

    @property
    def places(self) -> Mapping[tuple[str | int, ...], str]:
        """`file:line` of each string that refers to an environment variable, by its keys."""
        return self._places

    @property
    def root(self) -> Path:
        """Folder to which file names in the YAML are relative."""
        return self.path.parent

    @model_validator(mode="before")
    @classmethod
    def _solved_by_default(cls, data: Any) -> Any:
        """Keep `solved` if a YAML only adds parts."""
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
        if not self.tools and "tools" not in self.model_fields_set:
            words = (
                "for tasks that are answered in words write `tools: []`, "
                "for a foreign environment set `gym:`"
            )
            raise ValueError(f"tools: at least one file with tools is required; {words}")
        if self.tasks.source is None:
            raise ValueError("tasks.from: is required (or `gym:` for a foreign environment)")
        if self.success not in self.reward:
            raise ValueError(
                f"success: is '{self.success}', which is not a part of reward "
                f"({', '.join(self.reward)})"
            )
        check_gates(self.reward)
        return self


def load_spec(
    name: str | Path,
    overrides: Iterable[str] = (),
    *,
    profile: str | None = None,
    settings: Path | None = None,
) -> EnvSpec:
    """Load and validate an environment's YAML file.

    Args:
        name: Path of the file, or the name or id of a bundled environment (`crm`, `envgym/crm-v0`).
        overrides: `key.sub=value` settings that override the file and the profile.
        profile: Name of settings in `train.profiles`, such as `cpu`, that override `train:`.
        settings: File with the settings of a run, which replace those of the environment's file.

    Returns:
        The definition, with `path` set to the file.

    Raises:
        SpecError: If the file has mistakes; the message has one `file:line: key: problem` for each.

    >>> load_spec("guess", ["episode.max_turns=4"]).episode.max_turns
    4
    """
    path = find_env(name)
    data, where = read_yaml(settings or path)
    short_forms = _short_forms()
    write_out_short_forms(data, where, short_forms, at=("train",))
    overrides = list(overrides)
    for_profiles = [text for text in overrides if text.startswith("train.profiles")]
    apply_overrides(data, where, for_profiles, short_forms=short_forms)
    if profile:
        write_out_short_forms(data, where, short_forms, at=("train", "profiles", profile))
        apply_profile(data, where, profile)
    apply_overrides(data, where, overrides, short_forms=short_forms)
    data = refill(data, read_yaml(path)[0], where) if settings else data
    return _checked(data, where, path)


def _short_forms() -> ShortForms:
    return {
        (block, key): form
        for block, model in block_models().items()
        if issubclass(model, Block)
        for key, form in model.short_forms.items()
    }


def apply_profile(data: dict[str, Any], where: Where, profile: str) -> None:
    """Override `train:` with the settings of `train.profiles.NAME`; each keeps its line number."""
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
    if isinstance(data.get("prompt"), dict):
        data["prompt"] = PromptSpec.with_absolute_paths(data["prompt"], path.absolute().parent)
    for block, model in block_models().items():
        if issubclass(model, Block) and isinstance(data.get(block), dict):
            data[block] = model.with_absolute_paths(data[block], path.absolute().parent)
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
        for at, file in missing_files(spec)
    ]
    if mistakes:
        raise SpecError("\n".join(mistakes))
    warn_of_literals(data, where)
    spec._places.update(reference_places(data, where))
    return spec


@functools.cache
def block_models() -> dict[str, type[BaseModel]]:
    """Return the models of blocks that other packages define, by key (`train`)."""
    return {point.name: point.load() for point in entry_points(group="envgym.blocks")}


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of the whole YAML.

    It includes the trainer's block if the trainer is installed.
    """
    schema = EnvSpec.model_json_schema(by_alias=True)
    schema["properties"].pop("path", None)
    for block, model in block_models().items():
        inner = model.model_json_schema(by_alias=True)
        schema.setdefault("$defs", {}).update(inner.pop("$defs", {}))
        schema["properties"][block] = inner
    return schema
