"""The run folder: everything a training run leaves behind, in files that survive Ctrl-C and `kill -9`.

    runs/guess/
      config.yaml         the resolved settings
      run.json            what ran: code, versions, seeds, command line, device, start
      metrics.jsonl       {"step", "phase", "seconds", name: number, ...}, one line a logged step
      episodes.jsonl      {"step", "phase", ...the fields of Episode}, one line an episode
      signals.jsonl       {"step", "name", "severity", ...}, one line a sign of a gamed reward; there once there was one
      events.out.*        TensorBoard
      checkpoints/step-000010/
      adapter/

Lines are appended whole and flushed one by one; folders appear by a rename once they are complete and on the disk. So a run
that was killed loses what came after its last checkpoint and nothing else. Left out: what is in a checkpoint (`checkpoint.py`)
or an adapter (`export.py`).
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
    """One run's folder and the only code that writes its files."""

    path: Path

    @classmethod
    def create(cls, root: Path | str, name: str) -> RunFolder:
        """A new folder `root/name`; where that exists, `root/name-2`, `root/name-3`, ... A run is never written over."""
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
        """The folder of an earlier run. Raises UsageError where there is none."""
        path = Path(path)
        if not (path / "config.yaml").is_file():
            raise UsageError(
                f"{path} is no run folder: it has no config.yaml. Name one that `envgym train` made, such as runs/guess."
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
    def files_of_lines(self) -> tuple[Path, ...]:
        """What grows by lines, and is cut back when a run is resumed; each line has its `step`."""
        return self.metrics_file, self.episodes_file, self.signals_file

    @property
    def adapter(self) -> Path:
        return self.path / "adapter"

    def write_config(self, text: str) -> None:
        write_atomic(self.config_file, text)

    def write_facts(self, facts: Mapping[str, Any]) -> None:
        """`run.json`; see `facts.run_facts` for what belongs there."""
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
        """Adds one line; a number that is not finite becomes null, because JSON has no other word for it."""
        _append(
            self.metrics_file,
            [json.dumps({name: _finite(value) for name, value in line.items()}, allow_nan=False)],
        )

    def append_episodes(
        self, step: int, episodes: Iterable[Episode], *, phase: str = "grpo", left_out: str = ""
    ) -> None:
        """Adds one line an episode: `Episode.to_json` with the step and phase in front, and why it was not learned from."""
        head = f'{{"step":{int(step)},"phase":{json.dumps(phase)},' + (
            f'"left_out":{json.dumps(left_out)},' if left_out else ""
        )
        _append(self.episodes_file, [head + episode.to_json()[1:] for episode in episodes])

    def append_signals(self, signals: Iterable[Signal]) -> None:
        """Adds one line a signal: its fields. Without any, no file is made."""
        if lines := [json.dumps(asdict(signal), ensure_ascii=False) for signal in signals]:
            _append(self.signals_file, lines)

    def signals(self) -> list[dict[str, Any]]:
        """All lines of `signals.jsonl`, oldest first."""
        return list(_read(self.signals_file))

    def metrics(self) -> list[dict[str, Any]]:
        """All lines of `metrics.jsonl`, oldest first; a line torn by a kill is left out."""
        return list(_read(self.metrics_file))

    def episodes(self) -> Iterator[tuple[int, str, Episode]]:
        """(step, phase, episode) for each line of `episodes.jsonl`, oldest first."""
        for plain in _read(self.episodes_file):
            yield plain["step"], plain["phase"], Episode.from_json(json.dumps(plain))

    def find_episodes(self, names: Iterable[str]) -> dict[str, Episode]:
        """The training episodes of these names: `12:3` is the third line of step 12. What is not there is left out."""
        wanted = set(names)
        found = dict[str, Episode]()
        counts = Counter[int]()
        for plain in _read(self.episodes_file) if wanted else ():
            if plain["phase"] == "grpo":
                counts[plain["step"]] += 1
                if (name := f"{plain['step']}:{counts[plain['step']]}") in wanted:
                    found[name] = Episode.from_json(json.dumps(plain))
        return found

    def training_episodes(
        self, step: int | None = None
    ) -> tuple[list[int], list[tuple[Episode, str]]]:
        """The steps that have training episodes, and (episode, why it was left out) for each line of one of them.

        Args: step: the last one by default; one that has none gives no lines.
        """
        steps = list[int]()
        lines = list[dict[str, Any]]()
        for plain in _read(self.episodes_file):
            if plain["phase"] != "grpo":
                continue
            if plain["step"] not in steps[-1:]:
                steps.append(plain["step"])
                lines = (
                    [] if step is None else lines
                )  # the last one so far: only its lines are kept
            if step in (None, plain["step"]):
                lines.append(plain)
        return steps, [
            (Episode.from_json(json.dumps(plain)), plain.get("left_out", "")) for plain in lines
        ]

    def written(self) -> dict[str, int]:
        """Bytes of each file of lines so far, as `rewind` wants them."""
        return {file.name: file.stat().st_size for file in self.files_of_lines if file.exists()}

    def rewind(self, written: Mapping[str, int], *, step: int) -> None:
        """Cuts the files of lines back to so many bytes each, so that a resumed run writes everything once.

        A file that is not named, or has fewer bytes than that, loses the lines of steps after `step` instead.
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
        """Drops the lines of later steps (and torn ones), so that a resumed run writes each step once."""
        for file in self.files_of_lines:
            if file.exists() and file.name not in leave:
                kept = [
                    json.dumps(line, ensure_ascii=False, separators=(",", ":"))
                    for line in _read(file)
                    if line["step"] <= step
                ]
                write_atomic(file, "".join(line + "\n" for line in kept))

    def checkpoints(self) -> list[tuple[int, Path]]:
        """(step, folder) of each complete checkpoint, oldest first."""
        folders = (self.path / "checkpoints").glob("step-*")
        return sorted(
            (int(match[1]), folder)
            for folder in folders
            if (match := STEP_FOLDER.fullmatch(folder.name))
        )

    def checkpoint(self, step: int) -> Path:
        return self.path / "checkpoints" / f"step-{step:06d}"

    def recover(self) -> None:
        """Ends what a kill interrupted: an older folder whose successor never came gets its name back, half-written ones go.

        Only for the process that writes this run.
        """
        for place in (self.path, self.path / "checkpoints"):
            for old in place.glob(".*.old"):
                if not (real := old.with_name(old.name[1:].removesuffix(".old"))).exists():
                    old.rename(real)
            for leftover in (*place.glob(".*.old"), *place.glob(".*.partial")):
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()

    def set_aside(self, checkpoint: Path) -> Path:
        """Renames a checkpoint that cannot be read, so that it neither is taken nor counts as kept. Returns where it is now."""
        aside = checkpoint.with_name(f"damaged-{checkpoint.name}")
        shutil.rmtree(aside, ignore_errors=True)
        return checkpoint.rename(aside)

    def set_aside_before(self) -> bool:
        """Whether there are checkpoints that were set aside."""
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
        """Makes `checkpoints/step-000010` with what `write(folder)` puts there, then removes all but the last `keep`, and those
        of the steps `besides` them.

        A `write` that raises leaves the earlier checkpoints as they were.
        """
        _sync(*self.files_of_lines)  # a checkpoint tells how long these are
        folder = self.checkpoint(step)
        with atomic_folder(folder) as temporary:
            write(temporary)
        for number, old in self.checkpoints()[: -max(1, keep)]:
            if number not in besides:
                gone = old.rename(
                    old.with_name(f".{old.name}.partial")
                )  # at once: half a checkpoint must not look like one
                shutil.rmtree(gone)
        return folder

    def save_adapter(self, write: Callable[[Path], Any]) -> Path:
        """Makes or replaces `adapter/` with what `write(folder)` puts there."""
        with atomic_folder(self.adapter) as temporary:
            write(temporary)
        return self.adapter


def write_atomic(file: Path, text: str) -> None:
    """The file has either its old content or all of the new one."""
    temporary = file.with_name(f".{file.name}.partial")
    with temporary.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(file)
    _sync(file.parent)


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """An empty folder to fill; it takes its real name, and the place of an older one, when the block ends without error."""
    temporary = folder.with_name(f".{folder.name}.partial")
    old = folder.with_name(f".{folder.name}.old")
    for leftover in (temporary, old):
        shutil.rmtree(leftover, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        _sync(*temporary.rglob("*"), temporary)
    except BaseException:  # Ctrl-C too: a half-written folder must not stay
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    if folder.exists():
        folder.rename(old)  # a folder cannot be renamed over one that is not empty
    temporary.rename(folder)
    _sync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def _sync(*paths: Path) -> None:
    """Waits until these files are on the disk, and the names in these folders."""
    for path in paths:
        if path.exists():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def _append(file: Path, lines: list[str]) -> None:
    # Opened for each call: nothing waits in a buffer when the process dies.
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
            except ValueError:  # torn by a kill in mid-write
                continue


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
