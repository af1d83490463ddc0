"""Log a run's metrics and transcripts to `metrics.jsonl` and to TensorBoard.

The whole run has one step axis: warm-up takes steps 1..W and GRPO continues at W+1. TensorBoard is
imported when the first metric is logged. If it is not installed, a warning is printed and only
`metrics.jsonl` is written. See `display.py` for the terminal.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from envgym.episode import Episode
from envgym.secrets import redact
from envgym.text import one_line, visible
from envgym_trainer.run.folder import RunFolder
from envgym_trainer.run.transcripts import Decode, pick, transcript

Phase = Literal["warmup", "grpo", "eval"]

SHARES = ("stop/", "dialect/")
"""Prefixes of metrics that are shares. A name that is missing at a step is logged as 0."""
COUNTS = ("failures/", "eval/failures/", "val/failures/")
"""Prefixes of counts. A missing name is logged as 0 at each step that counts void episodes."""


class RunLogger:
    """Logger of one run's metrics, transcripts and settings.

    Args:
        folder: Run folder. If the run is resumed, seconds of earlier sessions are added
            and TensorBoard drops later steps.
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
        """Write one line to `metrics.jsonl` and one point to each curve. Return the line."""
        self._continue()
        # Names may hold a foreign environment's words, such as its stop reasons.
        numbers = {one_line(name): float(value) for name, value in metrics.items()}
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
        """Write the best, the worst and a random episode to TensorBoard as text.

        If `decode` is set, the exact token text is shown with the sampled part marked.
        """
        self._continue()
        if self.tensorboard is None:
            return
        for name, episode in pick(episodes, seed=step).items():
            text = transcript(episode, decode=decode)
            self.tensorboard.add_text(f"{prefix}/{name}", visible(text), step)
        self.tensorboard.flush()

    def config(self, text: str) -> None:
        """Write the settings to TensorBoard with the first metric."""
        self._texts["config"] = f"```yaml\n{text}\n```"

    def seconds(self) -> float:
        """Return the wall time of the run in seconds, summed over all sessions."""
        return self._seconds_before + time.monotonic() - self._start

    def close(self) -> None:
        """Close the TensorBoard file. Can be called twice."""
        if self.tensorboard is not None:
            self.tensorboard.close()

    def __enter__(self) -> RunLogger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _continue(self) -> None:
        """Open TensorBoard after the existing lines.

        Called with the first metric, because a resumed run truncates its files before that.
        """
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
                self.tensorboard.add_text(name, visible(redact(text)), 0)

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
            "TensorBoard is not installed, so metrics are written to metrics.jsonl only. For "
            "curves: pip install tensorboard"
        )
        return None
    return SummaryWriter(str(folder.path), purge_step=purge_step or None)
