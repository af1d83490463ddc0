"""Task set of an environment: tasks drawn from templates by seed.

Splits share no initial state and no wording. A task is a pure function of its id
`split/template/index`. Training tasks are unlimited (any index). Validation and test use the first
`val` and `test` ids, distributed over the templates in turn.
"""

from __future__ import annotations

import functools
import random
import sqlite3
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from envgym.errors import SpecError, UsageError, did_you_mean
from envgym.modules import load_file, load_object
from envgym.sandbox import Sandbox
from envgym.sandbox.agent import prepare_image
from envgym.sandbox.agent.file_tree import row
from envgym.sandbox.agent.work_folder import LayOut, starting_tree
from envgym.sandbox.box.checks import check_command
from envgym.sandbox.mcp.dump import fill
from envgym.sandbox.openapi.documents import schema_sql
from envgym.spec.environment import EnvSpec
from envgym.spec.tool_sources import McpTools
from envgym.tasks import SPLITS, Draw, Split, Task, Template, stable_seed
from envgym.text import natural_key
from envgym.tool_sandbox import simulated_app

ATTEMPTS = 20
"""Maximum number of states tried before a template without a suitable row raises an error."""


class TemplateTaskSet:
    """Tasks of one environment. Thread-safe.

    Templates draw from the tables of `state:` and from the tables in the `dump` of MCP servers.

    Args:
        spec: Definition of the environment.
        sandbox: Sandbox that provides the dumped tables. Not needed without a `dump`.
    """

    def __init__(self, spec: EnvSpec, sandbox: Sandbox | None = None):
        self.spec = spec
        self.sizes: dict[Split, int | None] = {
            "train": None,
            "val": spec.tasks.val,
            "test": spec.tasks.test,
        }
        self.templates = _templates(spec)
        self.schema_sql = schema_sql(simulated_app(spec))
        self._seed = load_object(spec.state.seed, spec.root) if spec.state.seed else None
        self._sandbox = sandbox
        self._dumped = {
            table: key
            for tool in spec.tools
            if isinstance(tool, McpTools)
            for table, key in tool.mcp.keys.items()
        }
        self._image = functools.lru_cache(maxsize=64)(
            lambda seed: prepare_image(self.schema_sql, self._fill, seed)
        )
        self._lay_out = load_object(spec.state.files, spec.root) if spec.state.files else None
        self.files = functools.lru_cache(maxsize=64)(self._starting_files)
        # Templates and seed functions are user code, which need not be thread-safe.
        self._lock = threading.Lock()

    def tables(self, seed: int) -> sqlite3.Connection:
        """Return a private copy of the initial tables of an episode with this state seed."""
        db = sqlite3.connect(":memory:")
        db.deserialize(self._image(seed))
        return db

    def _fill(self, db: sqlite3.Connection, seed: int) -> None:
        if self._seed is not None:
            self._seed(db, seed)
        if self._dumped and self._sandbox is not None:
            fill(db, self._sandbox.tables(seed), self._dumped)

    def ids(
        self, split: Split, *, levels: Sequence[str] = (), count: int | None = None
    ) -> list[str]:
        """Return the first `count` task ids of a split, distributed over its templates in turn.

        Args:
            split: Split of the tasks.
            levels: Levels of the templates; empty for all.
            count: Number of ids. Default: the size of the split. Required for train.

        Raises:
            SpecError: If no template fits.
            UsageError: If `count` is missing for a split without end.
        """
        templates = self.templates_of(split, levels=levels)
        count = self.sizes[split] if count is None else count
        if count is None:
            raise UsageError(f"the tasks of split '{split}' have no end; give a count")
        return [
            f"{split}/{templates[i % len(templates)].name}/{i // len(templates)}"
            for i in range(count)
        ]

    def draw_id(
        self,
        split: Split,
        rng: random.Random,
        *,
        levels: Sequence[str] = (),
        weights: Mapping[str, float] | None = None,
    ) -> str:
        """Return a random task id of a split: a new one for train, otherwise one of the fixed ids.

        Args:
            split: Split of the task.
            rng: Random generator.
            levels: Levels of the templates; empty for all.
            weights: Sampling weight of each template for train tasks. Default: equal weights.
        """
        if split != "train":
            return rng.choice(self.ids(split, levels=levels))
        templates = self.templates_of(split, levels=levels)
        if weights is None:
            drawn = rng.choice(templates)
        else:
            drawn = rng.choices(templates, [weights[template.name] for template in templates])[0]
        return f"train/{drawn.name}/{rng.randrange(2**31)}"

    def task(self, task_id: str) -> Task:
        """Build the task with this id.

        Raises:
            SpecError: If the id is invalid or no state fits its template.
        """
        split, name, index = self._parse(task_id)
        template = self.templates[name]
        reason = ""
        with self._lock:
            for attempt in range(ATTEMPTS):
                try:
                    return self._make(template, split, index, attempt, task_id)
                except LookupError as error:
                    reason = str(error)
        raise SpecError(
            f"{self.spec.path}: task '{task_id}': no state fits its template "
            f"in {ATTEMPTS} attempts: {reason}"
        )

    def _make(
        self, template: Template, split: Split, index: int, attempt: int, task_id: str
    ) -> Task:
        seed = stable_seed(self.spec.id, split, template.name, index, attempt, "state")
        rng = random.Random(stable_seed(self.spec.id, split, template.name, index, attempt, "draw"))
        db = self.tables(seed)
        try:
            rows = self.files(seed)
            files = {row["path"]: row["text"] for row in rows if row["kind"] == "file"}
            modes = {row["path"]: row["mode"] for row in rows}
            task = template.make(Draw(task_id, template, split, seed, rng, db, files, modes))
            _check_criterion(task, self.spec)
            if task.check:
                check_command(task.check.command, task.check.files)
            return task
        finally:
            db.close()

    def _starting_files(self, seed: int) -> tuple[dict[str, str], ...]:
        return tuple(file_rows(self._lay_out, seed))

    def templates_of(self, split: Split, *, levels: Sequence[str] = ()) -> list[Template]:
        """Return the templates of a split that have one of these levels.

        If `levels` is empty, the levels of the spec apply.

        Raises:
            SpecError: If there is no such template.
        """
        wanted = tuple(levels) or self.spec.tasks.levels
        known = sorted({t.level for t in self.templates.values()}, key=natural_key)
        if unknown := [level for level in wanted if level not in known]:
            raise SpecError(
                f"{self.spec.path}: no template has the level '{unknown[0]}'"
                f"{did_you_mean(unknown[0], known)}; levels: {', '.join(known)}"
            )
        found = [
            t
            for t in self.templates.values()
            if split in t.splits and (not wanted or t.level in wanted)
        ]
        if not found:
            raise SpecError(
                f"{self.spec.path}: no template of split '{split}' has a level in {list(wanted)}; "
                f"levels: {', '.join(known)}"
            )
        return found

    def _parse(self, task_id: str) -> tuple[Split, str, int]:
        parts = task_id.split("/")
        if len(parts) != 3 or parts[0] not in SPLITS or not parts[2].isdigit():
            raise SpecError(
                f"task '{task_id}': must look like split/template/index, "
                f"for example {self.ids('test', count=1)[0]}"
            )
        split, name, index = parts
        if name not in self.templates:
            raise SpecError(
                f"task '{task_id}': no template '{name}'{did_you_mean(name, self.templates)}"
            )
        if split not in self.templates[name].splits:
            raise SpecError(
                f"task '{task_id}': template '{name}' belongs to "
                f"{', '.join(self.templates[name].splits)} only"
            )
        return split, name, int(index)  # type: ignore[return-value]


def _check_criterion(task: Task, spec: EnvSpec) -> None:
    """Raise SpecError if a task has a solution that its own reward can never accept."""
    has_criterion = task.changes or task.facts or task.unchanged
    judge = spec.reward.get(spec.success)
    if task.has_solution and not has_criterion and judge and judge.source == "state_match":
        raise SpecError(
            f"task '{task.id}': has neither changes nor facts, so state_match can never be 1. Give "
            "changes=[...] or facts=[...]. If no row may change, give changes=NOTHING: the calls "
            "of the oracle are then required"
        )


def file_rows(lay_out: LayOut | None, seed: int) -> list[dict[str, str]]:
    """Return the initial files of an episode as rows of the table `files`.

    Raises:
        AppError: If there are too many files.
    """
    if lay_out is None:
        return []
    with tempfile.TemporaryDirectory(prefix="envgym-") as folder:
        return [
            row(path, entry)
            for path, entry in sorted(starting_tree(lay_out, Path(folder), seed).items())
        ]


def _templates(spec: EnvSpec) -> dict[str, Template]:
    assert spec.tasks.source is not None
    module = load_file(spec.root / spec.tasks.source)
    found = {value.name: value for value in vars(module).values() if isinstance(value, Template)}
    if not found:
        raise SpecError(
            f"{spec.root / spec.tasks.source}: contains no task template; "
            "mark functions of one Draw with @template(level=...)"
        )
    return found
