"""Watches a run for the signs of a gamed reward: what each GRPO step played becomes a record for `envgym.rewards.scoring.hacking_signals`.

What is measured, and where it is not, because a healthy run would look gamed:

    truth        success of the last validation. It stands beside the reward of the step after it: both are of one adapter.
    modal_share  only where a weighed part judges without the world (a vote, a judge, any part of groups), else a constant answer
                 earns nothing. Boxed answers count, and last messages of tasks with `facts`. Elsewhere the last word is a
                 formality: everybody who works with tools rightly ends with "Done.". Never less than the share that the
                 tasks' own solutions have, so that learning yes-or-no tasks is no rise.
    parts        weighed parts but the one that tells success, whose jumps are what training is for; in the part's own unit. For
                 a part that is computed from the world a jump may be learning, so it is a warning at most.
    extra_calls  calls beyond as many as the oracle makes, of tasks that have an oracle with calls.

Left out: the signals themselves and their limits (`envgym.rewards.scoring.hacking_signals`), and doing something about them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from statistics import fmean
from typing import Any

from envgym.episode import Episode
from envgym.rewards.rubric import Rubric
from envgym.rewards.scoring.answer_normalization import extract_boxed, find_reading, raw
from envgym.rewards.scoring.hacking_signals import (
    PART,
    HackWatch,
    Signal,
    StepRecord,
    modal_share,
    repetition,
)
from envgym.tasks import Task
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
"""Of the signals, each a curve `signals/NAME`."""
HEIGHTS = {"warn": 0.5, "alarm": 1.0}
"""Of the curve where a signal begins; it is 0 elsewhere."""
SEEN = ("modal_share", "repetition", "extra_calls")
"""What is measured here and nowhere else: curves `watched/NAME`."""


class RunSignals:
    """Tells the signals of a run: once in the terminal, in `signals.jsonl`, on curves. A checkpoint keeps its state.

    Args:
        world: whose tasks and reward are watched; a foreign environment, which has neither, is watched for the rest.
        is_on: whether anything is done at all.
        say: takes the line for the person at the terminal.
    """

    def __init__(self, world: Any, folder: RunFolder, *, is_on: bool, say: Callable[[str], None]):
        rubric: Rubric | None = getattr(world, "rubric", None)
        self._tasks = world.tasks if rubric else None
        self._parts = (
            {name: part for name, part in rubric.parts.items() if part.rule.weight != 0}
            if rubric
            else {}
        )
        self._success = rubric.success if rubric else ""
        self._judges_alone = any(
            part.is_of_group or not part.is_grounded for part in self._parts.values()
        )
        self._folder = folder
        self._is_on = is_on
        self._say = say
        self._watch = HackWatch()
        self._validated: dict[str, Any] = {}
        """What a validation that no record told yet adds to one."""

    def validated(self, numbers: Mapping[str, float]) -> None:
        """Takes in the numbers of a validation (`val/...`)."""
        if "val/success" in numbers:
            self._validated = {
                "truth": numbers["val/success"],
                "truth_tasks": int(numbers["val/n"]),
            }

    def observe(self, step: int, groups: Groups, metrics: Metrics) -> Metrics:
        """Looks at a step, and tells what begins.

        Args:
            groups: all that the policy played.
            metrics: the step's numbers; `reward` and `entropy` (nats) are taken where they are.
        Returns: `signals/NAME` and `watched/NAME`; nothing when it is off.
        """
        if not self._is_on:
            return {}
        record = self._record(step, _valid(groups), metrics)
        begun = [self._softened(signal) for signal in self._watch.observe(record)]
        self._folder.append_signals(begun)
        for signal in begun:
            self._say(
                f"{'WARNING' if signal.severity == 'alarm' else 'note'}: step {step}, signal {signal.name}: {signal.message}"
            )
        heights = {
            name: max((HEIGHTS[s.severity] for s in begun if s.name == name), default=0.0)
            for name in NAMES
        }
        seen = {
            f"watched/{name}": value
            for name in SEEN
            if (value := getattr(record, name)) is not None
        }
        return {f"signals/{name}": height for name, height in heights.items()} | seen

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
        learns = part is not None and part.is_grounded and not part.is_of_group
        return dataclasses.replace(signal, severity="warn") if learns else signal


def answered_alike(asked: Sequence[tuple[Task, Sequence[Episode]]]) -> float | None:
    """Share of the answer that is most frequent across tasks, at least that of the tasks' own solutions; None where fewer than two
    tasks were answered.

    Answers are compared by the reading that `task.extra["reading"]` names.
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
    """Mean of `repetition` over everything that the policy said, turn by turn: two calls of one tool do not repeat each other."""
    said = [
        message.content
        for group in groups
        for episode in group
        for message in episode.messages
        if message.role == "assistant"
    ]
    return _mean([share for text in said if (share := repetition(text)) is not None])


def beyond_oracle(asked: Sequence[tuple[Task, Sequence[Episode]]]) -> float | None:
    """Share of the calls that exceed as many as the oracle makes; None where no task has an oracle with calls, or none was made."""
    counts = [
        (episode.tool_calls, len(task.oracle))
        for task, group in asked
        if task.oracle
        for episode in group
    ]
    calls = sum(made for made, _ in counts)
    return sum(max(0, made - needed) for made, needed in counts) / calls if calls else None


def _answer(task: Task, text: str) -> str | None:
    """What the text answers where an answer is asked for: its box, or all of it for a task that is answered by facts."""
    boxed = extract_boxed(text)
    return text if boxed is None and task.facts else boxed


def _last_said(episode: Episode) -> str:
    """The last message of the policy; empty where it ended with a call of a tool."""
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
    valid = [[episode for episode in group if not episode.void] for group in groups]
    return [group for group in valid if group]


def _number(metrics: Metrics, name: str) -> float | None:
    value = metrics.get(name)
    return value if value is not None and math.isfinite(value) else None


def _mean(values: Sequence[float]) -> float | None:
    mean = fmean(values) if values else None
    return mean if mean is not None and math.isfinite(mean) else None
