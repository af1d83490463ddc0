"""Run folder of a training run: its files, checkpoints and adapter.

A killed run loses only the data after its last checkpoint. See `files.py` for atomic writes,
`records.py` for the lines of the JSONL files, `checkpoint.py` for the content of a checkpoint and
`adapter_files.py` for the adapter.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from envgym.episode import Episode
from envgym.errors import UsageError
from envgym.rewards.scoring.hacking_signals import Signal
from envgym.secrets import redact, redacted
from envgym.text import to_json
from envgym_trainer import files
from envgym_trainer.run import records
from envgym_trainer.run.lock import check_free, locked
from envgym_trainer.run.paths import check_inside, check_run_name
from envgym_trainer.run.settings import changed_settings

STEP_FOLDER = re.compile(r"step-(\d{6,})")


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Folder of one run. Only this class writes its files.

    config.yaml               resolved settings at the start; never changed
    settings_changes.jsonl    {"after_step", "settings": ["key=value"], ...} a resume with others
    run.json                  code, versions, seeds, command line, device, start time
    prompt.json               rendering, sha256 of the chat template, dialects, tool schemas
    run.lock                  process that trains in the folder; see `lock.py`
    metrics.jsonl             {"step", "phase", "seconds", name: number, ...} a logged step
    episodes.jsonl            {"step", "phase", ...the fields of Episode} an episode
    hacking_signals.jsonl     {"step", "name", "severity", ...} a sign of reward hacking
    events.out.*              TensorBoard
    checkpoints/step-000010/
    adapter/
    """

    path: Path

    @classmethod
    def create(cls, root: Path | str, name: str) -> RunFolder:
        """Create the folder `root/name`, or `root/name-2`, `root/name-3`, ... if it exists.

        Raises:
            UsageError: If the name is no folder name.
        """
        check_run_name(name)
        root = Path(root)
        root.mkdir(parents=True, exist_ok=True)
        number = 1
        while True:
            path = root / (name if number == 1 else f"{name}-{number}")
            try:
                path.mkdir()
            except FileExistsError:
                number += 1
                continue
            return cls(path)

    @classmethod
    def open(cls, path: Path | str) -> RunFolder:
        """Open the folder of an earlier run. It may come from somebody else: it is only data.

        Raises:
            UsageError: If the path is not a run folder, or a link in it leads out of it.
        """
        path = Path(path)
        if not (path / "config.yaml").is_file():
            raise UsageError(
                f"{path} is not a run folder: it has no config.yaml. Give a folder that "
                "`envgym train` made, such as runs/guess."
            )
        check_inside(path)
        return cls(path)

    def locked(self, notify: Callable[[str], None]) -> AbstractContextManager[None]:
        """Return a context in which no other process writes this run; see `lock.locked`."""
        return locked(self.path, notify=notify)

    def check_free(self) -> None:
        """Check that no other process trains in this folder; see `lock.check_free`."""
        check_free(self.path)

    @property
    def config_file(self) -> Path:
        return self.path / "config.yaml"

    @property
    def facts_file(self) -> Path:
        return self.path / "run.json"

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def episodes_file(self) -> Path:
        return self.path / "episodes.jsonl"

    @property
    def signals_file(self) -> Path:
        return self.path / "hacking_signals.jsonl"

    @property
    def changes_file(self) -> Path:
        return self.path / "settings_changes.jsonl"

    @property
    def jsonl_files(self) -> tuple[Path, ...]:
        """Return the files to which lines are appended. A resumed run truncates them by step."""
        return self.metrics_file, self.episodes_file, self.signals_file

    @property
    def adapter(self) -> Path:
        return self.path / "adapter"

    def write_config(self, text: str) -> None:
        """Write `config.yaml` once.

        Raises:
            FileExistsError: If it exists: the record of a run is never changed.
        """
        _write_once(self.config_file, redact(text))

    def write_facts(self, facts: Mapping[str, Any]) -> None:
        """Write `run.json` once. See `provenance.run_facts` for its content.

        Raises:
            FileExistsError: If it exists: the record of a run is never changed.
        """
        text = to_json(redacted(dict(facts)), indent=2) + "\n"
        _write_once(self.facts_file, text)

    def write_prompt(self, prompt: Mapping[str, Any]) -> None:
        """Write `prompt.json` once: the rendering of conversations and the tools.

        Raises:
            FileExistsError: If it exists: the record of a run is never changed.
        """
        text = to_json(redacted(dict(prompt)), indent=2) + "\n"
        _write_once(self.path / "prompt.json", text)

    def facts(self) -> dict[str, Any]:
        """Return the content of `run.json`; empty if it does not exist.

        Raises:
            UsageError: If it is no JSON object.
        """
        try:
            found = json.loads(self.facts_file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise UsageError(f"{self.facts_file} is no JSON object. Restore the file from a copy.")
        return found

    def add_change(self, after_step: int, settings: Sequence[str], **more: Any) -> None:
        """Record that the run continues with other settings after a step.

        Args:
            after_step: Last step with the earlier settings.
            settings: Changed settings as `key=value`, with the new value.
            more: Additional entries that can be written as JSON.
        """
        line = {"after_step": after_step, "settings": list(settings), **more}
        line = redacted(line)
        records.append_lines(self.changes_file, [json.dumps(line, ensure_ascii=False)])

    def changes(self, step: int | None = None) -> list[str]:
        """Return the settings that were changed before a step; see `settings.changed_settings`."""
        return changed_settings(records.read_lines(self.changes_file), step)

    def append_metrics(self, line: Mapping[str, Any]) -> None:
        """Append one line. A number that is not finite becomes null."""
        records.append_lines(self.metrics_file, [records.metrics_line(line)])

    def append_episodes(
        self, step: int, episodes: Iterable[Episode], *, phase: str = "grpo", excluded: str = ""
    ) -> None:
        """Append one line per episode, with step, phase and the reason for its exclusion."""
        lines = [
            records.episode_line(episode, step=step, phase=phase, excluded=excluded)
            for episode in episodes
        ]
        records.append_lines(self.episodes_file, lines)

    def append_signals(self, signals: Iterable[Signal]) -> None:
        """Append one line per signal. Without signals, no file is created."""
        if lines := [to_json(redacted(asdict(signal))) for signal in signals]:
            records.append_lines(self.signals_file, lines)

    def signals(self) -> list[dict[str, Any]]:
        """Return all lines of `hacking_signals.jsonl`, oldest first."""
        return list(records.read_lines(self.signals_file))

    def metrics(self) -> list[dict[str, Any]]:
        """Return all lines of `metrics.jsonl`, oldest first. An incomplete last line is skipped."""
        return list(records.read_lines(self.metrics_file))

    def episodes(self) -> Iterator[tuple[int, str, Episode]]:
        """Yield step, phase and episode for each line of `episodes.jsonl`, oldest first."""
        return records.read_episodes(self.episodes_file)

    def find_episodes(self, names: Iterable[str]) -> dict[str, Episode]:
        """Return the training episodes with these ids. See `records.find_episodes`."""
        return records.find_episodes(self.episodes_file, names)

    def training_episodes(
        self, step: int | None = None
    ) -> tuple[list[int], list[tuple[Episode, str]]]:
        """Return the steps with training episodes, and the episodes of one of them.

        See `records.training_episodes`.
        """
        return records.training_episodes(self.episodes_file, step)

    def file_sizes(self) -> dict[str, int]:
        """Return the size in bytes of each JSONL file, for `truncate_to`."""
        return {file.name: file.stat().st_size for file in self.jsonl_files if file.exists()}

    def truncate_to(self, sizes: Mapping[str, int], *, step: int) -> None:
        """Truncate the JSONL files to these sizes, so that a resumed run writes each line once.

        If a file is not listed or is shorter, its lines of steps after `step` are dropped instead.
        """
        now = self.file_sizes()
        long_enough = {name for name, size in now.items() if size >= sizes.get(name, size + 1)}
        self.truncate_after(step, leave=long_enough)
        for name in long_enough:
            os.truncate(self.path / name, sizes[name])

    def truncate_after(self, step: int, *, leave: Collection[str] = ()) -> None:
        """Drop incomplete lines and lines of later steps, so that no step is written twice."""
        for file in self.jsonl_files:
            if file.exists() and file.name not in leave:
                records.drop_later_lines(file, step)

    def checkpoints(self) -> list[tuple[int, Path]]:
        """Return step and folder of each complete checkpoint, oldest first."""
        folders = (self.path / "checkpoints").glob("step-*")
        return sorted(
            (int(match[1]), folder)
            for folder in folders
            if (match := STEP_FOLDER.fullmatch(folder.name))
        )

    def checkpoint(self, step: int) -> Path:
        return self.path / "checkpoints" / f"step-{step:06d}"

    def recover(self) -> None:
        """Repair the folder after a kill. Only the process that writes this run may call it."""
        for place in (self.path, self.path / "checkpoints"):
            files.recover(place)

    def quarantine(self, checkpoint: Path) -> Path:
        """Rename a damaged checkpoint, so that it is neither loaded nor counted.

        Return its new path.
        """
        aside = checkpoint.with_name(f"damaged-{checkpoint.name}")
        shutil.rmtree(aside, ignore_errors=True)
        return checkpoint.rename(aside)

    def has_quarantine(self) -> bool:
        """Return whether damaged checkpoints exist."""
        return any((self.path / "checkpoints").glob("damaged-*"))

    def latest_checkpoint(self) -> tuple[int, Path] | None:
        found = self.checkpoints()
        return found[-1] if found else None

    def save_checkpoint(
        self,
        step: int,
        write: Callable[[Path], Any],
        *,
        keep: int = 2,
        also_keep: Collection[int] = (),
    ) -> Path:
        """Write `checkpoints/step-000010` atomically, then remove old checkpoints.

        If `write` raises, the earlier checkpoints are unchanged.

        Args:
            step: Step of the checkpoint.
            write: Writes the content into the given folder.
            keep: Number of newest checkpoints to keep.
            also_keep: Steps whose checkpoints are kept too.
        """
        # A checkpoint records the sizes of these files, so they must be on disk first.
        files.sync(*self.jsonl_files)
        folder = self.checkpoint(step)
        with files.atomic_folder(folder) as temporary:
            write(temporary)
        for number, old in self.checkpoints()[: -max(1, keep)]:
            if number not in also_keep:
                files.remove_folder(old)
        return folder

    def save_adapter(self, write: Callable[[Path], Any]) -> Path:
        """Write or replace `adapter/` atomically with the content that `write(folder)` creates."""
        with files.atomic_folder(self.adapter) as temporary:
            write(temporary)
        return self.adapter


def _write_once(file: Path, text: str) -> None:
    if file.exists():
        raise FileExistsError(f"{file} exists already, and the record of a run is never changed")
    files.write_atomic(file, text)
