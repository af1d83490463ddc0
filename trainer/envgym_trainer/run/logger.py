"""Where numbers and transcripts of a run go: `metrics.jsonl` (the truth) and TensorBoard (a view of it).

One step axis for the whole run: warm-up takes steps 1..W, GRPO goes on at W+1. Left out: the terminal (`display.py`).
TensorBoard is imported with the first number; without it the run goes on with `metrics.jsonl` alone and says so.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from envgym.episode import Episode
from envgym_trainer.run.folder import RunFolder
from envgym_trainer.run.transcripts import Decode, pick, transcript

Phase = Literal["warmup", "grpo", "eval"]

SHARES = ("stop/", "parse/")
"""Families of shares: a member not named at a step was 0 there, and a curve must say so."""
COUNTS = ("failures/", "eval/failures/", "val/failures/")
"""Families of counts: the same, at every step that tells of void episodes."""


class Monitor:
    """Writes one run's numbers, transcripts and settings.

        with Monitor(folder) as monitor:
            monitor.log(12, {"loss": 0.3, "success": 0.5}, phase="grpo")

    Args:
        folder: the run. Lines of an earlier session continue: its seconds are added, and TensorBoard forgets later steps.
    """

    def __init__(self, folder: RunFolder):
        self.folder = folder
        self._start = time.monotonic()
        self._seconds_before = 0.0
        self._shares: set[str] = set()
        self._texts: dict[str, str] = {}
        self._open = False
        self.tensorboard: Any = None

    def log(
        self, step: int, metrics: Mapping[str, float], *, phase: Phase = "grpo"
    ) -> dict[str, float | str]:
        """Writes one line and one point of each curve. Returns the line as written."""
        self._continue()
        numbers = {name: float(value) for name, value in metrics.items()}
        numbers |= {name: 0.0 for name in self._silent_shares(numbers)}
        line = {"step": int(step), "phase": phase, "seconds": round(self.seconds(), 3), **numbers}
        self.folder.append_metrics(line)
        if self.tensorboard is not None:
            for name, value in numbers.items():
                self.tensorboard.add_scalar(name, value, step)
            self.tensorboard.flush()
        return line

    def transcripts(
        self,
        step: int,
        episodes: Sequence[Episode],
        *,
        decode: Decode | None = None,
        prefix: str = "transcripts",
    ) -> None:
        """Best, worst and a random episode as text; `decode` turns ids into exact text with the sampled part marked."""
        self._continue()
        if self.tensorboard is None:
            return
        for name, episode in pick(episodes, seed=step).items():
            self.tensorboard.add_text(f"{prefix}/{name}", transcript(episode, decode=decode), step)
        self.tensorboard.flush()

    def config(self, text: str) -> None:
        """The resolved settings: `config.yaml` at once, and a text in TensorBoard with the first number."""
        self.folder.write_config(text)
        self._texts["config"] = f"```yaml\n{text}\n```"

    def seconds(self) -> float:
        """Wall seconds of the run so far, over all its sessions."""
        return self._seconds_before + time.monotonic() - self._start

    def close(self) -> None:
        """Ends the TensorBoard file. Safe to call twice."""
        if self.tensorboard is not None:
            self.tensorboard.close()

    def __enter__(self) -> Monitor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _continue(self) -> None:
        """Opens TensorBoard behind the lines that are there. Not before the first number: a resumed run first drops lines."""
        if self._open:
            return
        self._open = True
        past = self.folder.metrics()
        self._seconds_before = max((line["seconds"] for line in past), default=0.0)
        self._shares |= {name for line in past for name in line if name.startswith(SHARES + COUNTS)}
        self.tensorboard = _summary_writer(
            self.folder, purge_step=max((line["step"] for line in past), default=-1) + 1
        )
        if self.tensorboard is not None:
            for name, text in self._texts.items():
                self.tensorboard.add_text(name, text, 0)

    def _silent_shares(self, numbers: Mapping[str, float]) -> set[str]:
        families = {name.split("/")[0] + "/" for name in numbers if name.startswith(SHARES)}
        families |= {
            family for family in COUNTS if family.replace("failures/", "episode/void") in numbers
        }
        self._shares |= {name for name in numbers if name.startswith(SHARES + COUNTS)}
        return {
            name
            for name in self._shares
            if name not in numbers and name.startswith(tuple(families))
        }


def _summary_writer(folder: RunFolder, *, purge_step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        print(
            "TensorBoard is not installed: numbers go to metrics.jsonl only. For curves: pip install tensorboard"
        )
        return None
    return SummaryWriter(str(folder.path), purge_step=purge_step or None)
