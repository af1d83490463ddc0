"""Monitor a run for signs of reward hacking.

See `envgym.rewards.scoring.hacking_signals` for the signals.

The share of the most frequent answer is measured only if a weighted part does not depend on the
environment's state (a vote, a judge, a group part). For tool tasks the final message is always
"Done.", so it carries no information. Tool calls are compared with the oracle's number, part means
exclude the success part, and `truth` is the success of the last validation.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from statistics import fmean
from typing import Any

from envgym.episode import Episode
from envgym.rewards.scoring.answer_normalization import extract_boxed, find_reading, raw
from envgym.rewards.scoring.answer_statistics import modal_share, repetition
from envgym.rewards.scoring.hacking_signals import PART, HackingDetector, Signal, StepRecord
from envgym.tasks import Task
from envgym.world import World
from envgym_trainer.run.folder import RunFolder

Metrics = dict[str, float]
Groups = Sequence[Sequence[Episode]]

NAMES = (
    "gap",
    "modal_answer",
    "jump",
    "entropy_explosion",
    "entropy_collapse",
    "repetition",
    "extra_calls",
)
"""Names of the signals, each with a curve `hacking/signal/NAME`."""
HEIGHTS = {"warn": 0.5, "alarm": 1.0}
"""Value of a signal's curve at the step at which the signal begins; it is 0 at other steps."""
SEEN = ("modal_share", "repetition", "extra_calls")
"""Measurements that only this module logs, as curves `hacking/NAME`."""


class HackingMonitor:
    """Reward-hacking monitor of one run, saved in its checkpoints.

    Signals are reported in the terminal, in `hacking_signals.jsonl` and as metrics.

    Args:
        world: World with the tasks and the rubric. For a foreign environment, which has neither,
            only signals that need no tasks and no parts are computed.
        folder: Folder of the run.
        is_on: If False, the monitor does nothing.
        notify: Callback for one line of terminal output.
    """

    def __init__(
        self, world: World, folder: RunFolder, *, is_on: bool, notify: Callable[[str], None]
    ):
        rubric = world.rubric
        self._tasks = world.tasks if rubric else None
        self._parts = (
            {name: part for name, part in rubric.parts.items() if part.rule.weight != 0}
            if rubric
            else {}
        )
        self._success = rubric.success if rubric else ""
        self._judges_alone = any(
            part.is_group_part or not part.is_grounded for part in self._parts.values()
        )
        self._folder = folder
        self._is_on = is_on
        self._notify = notify
        self._watch = HackingDetector()
        self._validated: dict[str, Any] = {}
        """Validation results that are not yet part of a record."""

    def validated(self, numbers: Mapping[str, float]) -> None:
        """Store the metrics of a validation (`val/...`) for the next record."""
        if "val/success" in numbers:
            self._validated = {
                "truth": numbers["val/success"],
                "truth_tasks": int(numbers["val/n"]),
            }

    def observe(self, step: int, groups: Groups, metrics: Metrics) -> Metrics:
        """Record one step and report the signals that begin.

        Args:
            step: Training step.
            groups: All groups of the step, with excluded ones.
            metrics: Metrics of the step. `reward` and `entropy` (nats) are used if present.

        Returns:
            `hacking/signal/NAME` and `hacking/NAME`; empty if the monitor is off.
        """
        if not self._is_on:
            return {}
        record = self._record(step, _valid(groups), metrics)
        begun = [self._softened(signal) for signal in self._watch.observe(record)]
        self._folder.append_signals(begun)
        for signal in begun:
            self._notify(
                f"{'WARNING' if signal.severity == 'alarm' else 'note'}: step {step}, "
                f"signal {signal.name}: {signal.message}"
            )
        heights = {
            name: max((HEIGHTS[s.severity] for s in begun if s.name == name), default=0.0)
            for name in NAMES
        }
        seen = {
            f"hacking/{name}": value
            for name in SEEN
            if (value := getattr(record, name)) is not None
        }
        return {f"hacking/signal/{name}": height for name, height in heights.items()} | seen

    def state_dict(self) -> dict[str, Any]:
        return {"watch": self._watch.state_dict(), "validated": dict(self._validated)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._watch.load_state_dict(state["watch"])
        self._validated = dict(state["validated"])

    def _record(self, step: int, groups: Groups, metrics: Metrics) -> StepRecord:
        validated = self._validated
        self._validated = {}
        asked = (
            [(self._tasks.task(group[0].task_id), group) for group in groups] if self._tasks else []
        )
        parts = {name: _part_mean(name, groups) for name in self._parts if name != self._success}
        return StepRecord(
            step,
            **validated,
            reward=_number(metrics, "reward"),
            entropy=_number(metrics, "entropy"),
            modal_share=answered_alike(asked) if self._judges_alone else None,
            repetition=repeated(groups),
            extra_calls=beyond_oracle(asked),
            parts=parts,
        )

    def _softened(self, signal: Signal) -> Signal:
        part = self._parts.get(signal.series.removeprefix(PART)) if signal.name == "jump" else None
        # A jump of a part that depends on the environment's state may be learning.
        learns = part is not None and part.is_grounded and not part.is_group_part
        return dataclasses.replace(signal, severity="warn") if learns else signal


def answered_alike(asked: Sequence[tuple[Task, Sequence[Episode]]]) -> float | None:
    """Return the share of the most frequent answer across tasks.

    The share in the tasks' own solutions is a lower bound, so that learning yes-or-no tasks does
    not look like a collapse. Answers are normalized as `task.extra["reading"]` asks. The result is
    `None` if fewer than two tasks were answered.
    """
    numbers: dict[Hashable, int] = {}

    def known(task: Task, text: str) -> str | None:
        answer = _answer(task, text)
        if answer is None or not answer.strip():
            return None
        form = find_reading(task.extra.get("reading", "value"))(answer)
        return str(numbers.setdefault(form, len(numbers)))

    given = modal_share(
        [[known(task, _last_said(episode)) for episode in group] for task, group in asked],
        reading=raw,
    )
    right = modal_share(
        [[known(task, task.final)] for task in {task.id: task for task, _ in asked}.values()],
        reading=raw,
    )
    return given if given is None or right is None else max(given, right)


def repeated(groups: Groups) -> float | None:
    """Return the mean of `repetition` over the policy's messages, each turn measured by itself.

    Measured by turn because two calls of one tool in an episode are no repetition.
    """
    said = [
        message.content
        for group in groups
        for episode in group
        for message in episode.messages
        if message.role == "assistant"
    ]
    return _mean([share for text in said if (share := repetition(text)) is not None])


def beyond_oracle(asked: Sequence[tuple[Task, Sequence[Episode]]]) -> float | None:
    """Return the share of tool calls beyond the oracle's number.

    The result is `None` if no task has an oracle with calls, or if no call was made.
    """
    counts = [
        (episode.tool_calls, len(task.oracle))
        for task, group in asked
        if task.oracle
        for episode in group
    ]
    calls = sum(made for made, _ in counts)
    return sum(max(0, made - needed) for made, needed in counts) / calls if calls else None


def _answer(task: Task, text: str) -> str | None:
    """Return the boxed answer, or the whole text if the task is answered by facts."""
    boxed = extract_boxed(text)
    return text if boxed is None and task.facts else boxed


def _last_said(episode: Episode) -> str:
    """Return the final message of the policy; empty if the episode ended with a tool call."""
    last = episode.messages[-1] if episode.messages else None
    return (
        last.content
        if last is not None
        and last.role == "assistant"
        and episode.stop_reason in ("answered", "length")
        else ""
    )


def _part_mean(name: str, groups: Groups) -> float | None:
    values = [
        value
        for group in groups
        for episode in group
        if (value := episode.reward_parts.get(name)) is not None
    ]
    return _mean(values)


def _valid(groups: Groups) -> list[list[Episode]]:
    valid = [[episode for episode in group if not episode.is_void] for group in groups]
    return [group for group in valid if group]


def _number(metrics: Metrics, name: str) -> float | None:
    value = metrics.get(name)
    return value if value is not None and math.isfinite(value) else None


def _mean(values: Sequence[float]) -> float | None:
    mean = fmean(values) if values else None
    return mean if mean is not None and math.isfinite(mean) else None
