"""Run folder of a training run, with files that survive Ctrl-C and `kill -9`.

Lines are appended whole and flushed one by one. Folders are written under a temporary name, synced
to disk and then renamed. A killed run therefore loses only the data after its last checkpoint. See
`RunFolder` for the files, `checkpoint.py` for the content of a checkpoint and `export.py` for the
adapter.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from envgym.episode import Episode
from envgym.errors import UsageError
from envgym.rewards.scoring.hacking_signals import Signal

STEP_FOLDER = re.compile(r"step-(\d{6,})")


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Folder of one run. Only this class writes its files.

    config.yaml               resolved settings
    run.json                  code, versions, seeds, command line, device, start time
    metrics.jsonl             {"step", "phase", "seconds", name: number, ...} a logged step
    episodes.jsonl            {"step", "phase", ...the fields of Episode} an episode
    signals.jsonl             {"step", "name", "severity", ...} a sign of reward hacking
    events.out.*              TensorBoard
    checkpoints/step-000010/
    adapter/
    """

    path: Path

    @classmethod
    def create(cls, root: Path | str, name: str) -> RunFolder:
        """Create the folder `root/name`, or `root/name-2`, `root/name-3`, ... if it exists."""
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
        """Open the folder of an earlier run.

        Raises:
            UsageError: If the path is not a run folder.
        """
        path = Path(path)
        if not (path / "config.yaml").is_file():
            raise UsageError(
                f"{path} is not a run folder: it has no config.yaml. Give a folder that "
                "`envgym train` made, such as runs/guess."
            )
        return cls(path)

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
        return self.path / "signals.jsonl"

    @property
    def jsonl_files(self) -> tuple[Path, ...]:
        """Return the files to which lines are appended. A resumed run truncates them by step."""
        return self.metrics_file, self.episodes_file, self.signals_file

    @property
    def adapter(self) -> Path:
        return self.path / "adapter"

    def write_config(self, text: str) -> None:
        write_atomic(self.config_file, text)

    def write_facts(self, facts: Mapping[str, Any]) -> None:
        """Write `run.json`. See `facts.run_facts` for its content."""
        write_atomic(
            self.facts_file,
            json.dumps(dict(facts), indent=2, ensure_ascii=False, default=str) + "\n",
        )

    def facts(self) -> dict[str, Any]:
        return (
            json.loads(self.facts_file.read_text(encoding="utf-8"))
            if self.facts_file.exists()
            else {}
        )

    def append_metrics(self, line: Mapping[str, Any]) -> None:
        """Append one line.

        A number that is not finite becomes null, because JSON cannot express it.
        """
        _append(
            self.metrics_file,
            [json.dumps({name: _finite(value) for name, value in line.items()}, allow_nan=False)],
        )

    def append_episodes(
        self, step: int, episodes: Iterable[Episode], *, phase: str = "grpo", left_out: str = ""
    ) -> None:
        """Append one line per episode, with step, phase and the reason for its exclusion."""
        head = f'{{"step":{int(step)},"phase":{json.dumps(phase)},' + (
            f'"left_out":{json.dumps(left_out)},' if left_out else ""
        )
        _append(self.episodes_file, [head + episode.to_json()[1:] for episode in episodes])

    def append_signals(self, signals: Iterable[Signal]) -> None:
        """Append one line per signal. Without signals, no file is created."""
        if lines := [json.dumps(asdict(signal), ensure_ascii=False) for signal in signals]:
            _append(self.signals_file, lines)

    def signals(self) -> list[dict[str, Any]]:
        """Return all lines of `signals.jsonl`, oldest first."""
        return list(_read(self.signals_file))

    def metrics(self) -> list[dict[str, Any]]:
        """Return all lines of `metrics.jsonl`, oldest first. An incomplete last line is skipped."""
        return list(_read(self.metrics_file))

    def episodes(self) -> Iterator[tuple[int, str, Episode]]:
        """Yield step, phase and episode for each line of `episodes.jsonl`, oldest first."""
        for plain in _read(self.episodes_file):
            yield plain["step"], plain["phase"], Episode.from_dict(plain)

    def find_episodes(self, names: Iterable[str]) -> dict[str, Episode]:
        """Return the training episodes with these ids. `12:3` is the third line of step 12.

        Ids that do not exist are skipped.
        """
        wanted = set(names)
        found = dict[str, Episode]()
        counts = Counter[int]()
        for plain in _read(self.episodes_file) if wanted else ():
            if plain["phase"] == "grpo":
                counts[plain["step"]] += 1
                if (name := f"{plain['step']}:{counts[plain['step']]}") in wanted:
                    found[name] = Episode.from_dict(plain)
        return found

    def training_episodes(
        self, step: int | None = None
    ) -> tuple[list[int], list[tuple[Episode, str]]]:
        """Return the steps that have training episodes, and the episodes of one of them.

        Args:
            step: Step of the episodes. Default: the last one.

        Returns:
            The steps, and the step's episodes with the reason if one was excluded from training.
        """
        steps = list[int]()
        lines = list[dict[str, Any]]()
        for plain in _read(self.episodes_file):
            if plain["phase"] != "grpo":
                continue
            if plain["step"] not in steps[-1:]:
                steps.append(plain["step"])
                # Keep only the lines of the last step, to save memory.
                lines = [] if step is None else lines
            if step in (None, plain["step"]):
                lines.append(plain)
        return steps, [(Episode.from_dict(plain), plain.get("left_out", "")) for plain in lines]

    def written(self) -> dict[str, int]:
        """Return the size in bytes of each file of lines, for `rewind`."""
        return {file.name: file.stat().st_size for file in self.jsonl_files if file.exists()}

    def truncate_to(self, written: Mapping[str, int], *, step: int) -> None:
        """Truncate the files of lines to these sizes, so that a resumed run writes each line once.

        If a file is not listed or is shorter, its lines of steps after `step` are dropped instead.
        """
        self.truncate_after(
            step,
            leave={
                name for name, size in self.written().items() if size >= written.get(name, size + 1)
            },
        )
        for name in written.keys() & self.written().keys():
            os.truncate(self.path / name, min(written[name], self.written()[name]))

    def truncate_after(self, step: int, *, leave: Collection[str] = ()) -> None:
        """Drop incomplete lines and lines of later steps, so that no step is written twice."""
        for file in self.jsonl_files:
            if file.exists() and file.name not in leave:
                kept = [
                    json.dumps(line, ensure_ascii=False, separators=(",", ":"))
                    for line in _read(file)
                    if line["step"] <= step
                ]
                write_atomic(file, "".join(line + "\n" for line in kept))

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
        """Repair the folder after a kill. Only the process that writes this run may call it.

        A folder that was being replaced gets its name back; incomplete folders are removed.
        """
        for place in (self.path, self.path / "checkpoints"):
            for old in place.glob(".*.old"):
                if not (real := old.with_name(old.name[1:].removesuffix(".old"))).exists():
                    old.rename(real)
            for leftover in (*place.glob(".*.old"), *place.glob(".*.partial")):
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()

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
        besides: Collection[int] = (),
    ) -> Path:
        """Write `checkpoints/step-000010` atomically, then remove old checkpoints.

        If `write` raises, the earlier checkpoints are unchanged.

        Args:
            step: Step of the checkpoint.
            write: Writes the content into the given folder.
            keep: Number of newest checkpoints to keep.
            besides: Steps whose checkpoints are kept too.
        """
        # A checkpoint records the sizes of these files, so they must be on disk first.
        _sync(*self.jsonl_files)
        folder = self.checkpoint(step)
        with atomic_folder(folder) as temporary:
            write(temporary)
        for number, old in self.checkpoints()[: -max(1, keep)]:
            if number not in besides:
                # Rename first: a partly removed checkpoint must not look complete.
                gone = old.rename(old.with_name(f".{old.name}.partial"))
                shutil.rmtree(gone)
        return folder

    def save_adapter(self, write: Callable[[Path], Any]) -> Path:
        """Write or replace `adapter/` atomically with the content that `write(folder)` creates."""
        with atomic_folder(self.adapter) as temporary:
            write(temporary)
        return self.adapter


def write_atomic(file: Path, text: str) -> None:
    """Write a file atomically: after a crash it has its old or its new content."""
    temporary = file.with_name(f".{file.name}.partial")
    with temporary.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(file)
    _sync(file.parent)


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder that replaces `folder` if the block ends without error."""
    temporary = folder.with_name(f".{folder.name}.partial")
    old = folder.with_name(f".{folder.name}.old")
    for leftover in (temporary, old):
        shutil.rmtree(leftover, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        _sync(*temporary.rglob("*"), temporary)
    except BaseException:
        # Ctrl-C too must not leave an incomplete folder.
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    if folder.exists():
        # A folder cannot be renamed to one that is not empty.
        folder.rename(old)
    temporary.rename(folder)
    _sync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def _sync(*paths: Path) -> None:
    """Flush files, and the entries of folders, to disk."""
    for path in paths:
        if path.exists():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def _append(file: Path, lines: list[str]) -> None:
    # Open the file for each call, so that no data is buffered when the process dies.
    torn = file.exists() and file.stat().st_size > 0 and not _ends_with_newline(file)
    with file.open("a", encoding="utf-8") as stream:
        stream.write(("\n" if torn else "") + "".join(line + "\n" for line in lines))


def _ends_with_newline(file: Path) -> bool:
    with file.open("rb") as stream:
        stream.seek(-1, os.SEEK_END)
        return stream.read(1) == b"\n"


def _read(file: Path) -> Iterator[dict[str, Any]]:
    if not file.exists():
        return
    with file.open(encoding="utf-8", errors="replace") as stream:
        for line in stream:
            try:
                yield json.loads(line)
            except ValueError:
                # The line is incomplete because the process was killed while writing.
                continue


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
