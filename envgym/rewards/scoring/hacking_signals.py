"""Watches a run for the signs that a reward is being gamed: one record a step goes in, signals come out.

    gap                held-out truth falls while the training reward does not        alarm   needs held-out labels
    modal_answer       one answer takes over, across tasks                            alarm   needs none, as all below
    jump               one part's mean leaves its own recent past from step to step   alarm (up), warn (down)
    entropy_explosion  the policy's tokens become random                              alarm
    entropy_collapse   the policy's tokens become certain                             warn: solving everything looks alike
    repetition         texts repeat themselves                                        alarm
    extra_calls        more calls than the tasks need                                 warn

A high training reward is no sign by itself: a healthy self-training run on easy tasks sits at 0.9. A signal is given when its
condition begins to hold, and again only when it had ceased for a while. What to do about it (roll back, stop) is decided elsewhere.
Source: the order of usefulness follows SRT, arXiv 2505.21444, and its replications.
"""

from __future__ import annotations

import math
import re
import statistics
from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from envgym.errors import UsageError
from envgym.rewards.scoring.answer_normalization import Reading, value_of

Severity = Literal["warn", "alarm"]

RECENT = 5
"""Steps whose median is the present; batches of a few tasks jump about."""
LATEST = 3
PAST = 20
"""A jump is the median of the latest steps against those of the window before them."""
TRUTHS = 6
"""Held-out measurements that are averaged, now and at the best."""
PART = "part/"
"""Before the name of a part's series."""
LEVELS = ("modal_share", "entropy", "repetition", "extra_calls")
"""Series that are compared with the run's own beginning."""


@dataclass(frozen=True, slots=True)
class Signal:
    """Something that a person, or a state machine, should look at."""

    name: str
    severity: Severity
    step: int
    value: float
    limit: float
    """What the value has passed."""
    message: str
    series: str = ""
    """What was looked at, by the names of `StepRecord.measured`: `modal_share`, `part/NAME`, ..."""


@dataclass(frozen=True, slots=True)
class StepRecord:
    """A step's aggregates. None is what was not measured; a NaN is refused, since it would silence every comparison."""

    step: int
    reward: float | None = None
    """Mean training reward."""
    truth: float | None = None
    """Accuracy on held-out tasks with true labels, where it was measured at this step."""
    truth_tasks: int = 0
    """How many held-out tasks stand behind `truth`; it says how much of a fall is chance."""
    modal_share: float | None = None
    """As of `modal_share()`."""
    entropy: float | None = None
    """Of the sampled tokens, in nats."""
    repetition: float | None = None
    """Mean of `repetition()` over the step's texts."""
    extra_calls: float | None = None
    """Share of the tool calls that the tasks do not need."""
    parts: Mapping[str, float | None] = field(default_factory=dict)
    """Name -> mean of each reward part."""

    def __post_init__(self) -> None:
        for name, value in self.measured():
            if not math.isfinite(value):
                raise UsageError(
                    f"step {self.step}: {name} is {value}; leave out (None) what could not be measured"
                )

    def measured(self) -> Iterator[tuple[str, float]]:
        """Every series that has a value at this step; parts as `part/NAME`."""
        named = {name: getattr(self, name) for name in ("reward", "truth", *LEVELS)}
        named |= {f"{PART}{name}": value for name, value in self.parts.items()}
        return ((name, value) for name, value in named.items() if value is not None)


@dataclass(frozen=True, slots=True)
class Limits:
    """When a signal is given. The defaults come from the toy of `benchmarks/selftrain.py`, on other seeds than it reports.

    Levels are compared with the median of the run's own first steps, so that yes-or-no tasks, of which half have the same
    answer, and talkative models need no limits of their own.
    """

    first_steps: int = 10
    """Steps that make the beginning; no level signal before. Fewer let one batch decide, more learn the hack as normal."""
    quiet_steps: int = 20
    """A condition that comes back sooner than after so many steps is the same signal."""
    modal_rise: float = 0.2
    """Of the way from the beginning's modal share to 1. Healthy toy runs rose by 0.13 at most; gamed ones had risen by 0.28 or more
    ten steps before ten points of accuracy were lost."""
    entropy_factor: float = 2.0
    """Entropy above so many times its beginning explodes. Healthy training lowers it."""
    entropy_least: float = 0.2
    """And so many nats more: twice nothing is nothing."""
    entropy_floor: float = 0.05
    """Entropy below this share of its beginning has collapsed."""
    repetition_rise: float = 0.2
    """Absolute: a fifth of all n-grams more are repeats than in the beginning."""
    extra_calls_rise: float = 0.2
    """Absolute."""
    jump_deviations: float = 6.0
    """Robust deviations (1.4826 MAD) of the window before: beyond what a median of three reaches by chance."""
    jump_least: float = 0.15
    """A jump is at least this much, in the part's own unit: a part that has been constant has no deviation."""
    gap_least: float = 0.05
    """Held-out accuracy that must be lost."""
    gap_deviations: float = 3.5
    """And so many binomial standard errors of the difference: the best of many measurements is partly luck."""


class HackWatch:
    """Fed once a step. Its state is plain, for a checkpoint: a resumed run gives the signals that an unbroken one gives."""

    def __init__(self, limits: Limits | None = None):
        self.limits = limits or Limits()
        self._step: int | None = None
        self._first: dict[str, list[float]] = {}
        self._last: dict[str, list[float]] = {}
        self._truths: list[Measured] = []
        self._best: Measured | None = None
        self._held: dict[str, int] = {}
        """Of each signal, the last step at which its condition held."""

    def observe(self, record: StepRecord) -> list[Signal]:
        """The signals that begin at this step. Raises UsageError where steps do not rise."""
        if self._step is not None and record.step <= self._step:
            raise UsageError(
                f"step {record.step} after step {self._step}: load the state that belongs to an earlier step first"
            )
        self._step = record.step
        measured = dict(record.measured())
        for name, value in measured.items():
            self._keep(name, value)
        found = dict(self._checks(record, measured))
        holding = {key: signal for key, signal in found.items() if signal}
        begun = [
            signal
            for key, signal in holding.items()
            if record.step - self._held.get(key, -math.inf) > self.limits.quiet_steps
        ]
        self._held |= dict.fromkeys(holding, record.step)
        return begun

    def _keep(self, name: str, value: float) -> None:
        first = self._first.setdefault(name, [])
        if len(first) < self.limits.first_steps:
            first.append(value)
        self._last[name] = [*self._last.get(name, ()), value][-(LATEST + PAST) :]

    def _checks(
        self, record: StepRecord, measured: Mapping[str, float]
    ) -> Iterator[tuple[str, Signal | None]]:
        for name in measured:
            if name.startswith(PART):
                yield name, self._jump(record.step, name)
            elif name in LEVELS and len(self._first[name]) == self.limits.first_steps:
                yield from self._level(record.step, name)
        if record.truth is not None:
            yield "gap", self._gap(record, record.truth)

    def _level(self, step: int, name: str) -> Iterator[tuple[str, Signal | None]]:
        """A series' recent median against that of the run's beginning."""
        start = statistics.median(self._first[name])
        now = statistics.median(self._last[name][-RECENT:])
        limits = self.limits
        rules: dict[str, list[tuple[str, Severity, float]]] = {
            "modal_share": [("modal_answer", "alarm", start + limits.modal_rise * (1 - start))],
            "entropy": [
                (
                    "entropy_explosion",
                    "alarm",
                    max(limits.entropy_factor * start, start + limits.entropy_least),
                ),
                ("entropy_collapse", "warn", limits.entropy_floor * start),
            ],
            "repetition": [("repetition", "alarm", start + limits.repetition_rise)],
            "extra_calls": [("extra_calls", "warn", start + limits.extra_calls_rise)],
        }
        for signal, severity, limit in rules[name]:
            beyond = now < limit if signal == "entropy_collapse" else now > limit
            message = (
                f"{name} went from {start:.3g} at the beginning to {now:.3g} (limit {limit:.3g})"
            )
            yield (
                signal,
                Signal(signal, severity, step, now, limit, message, name) if beyond else None,
            )

    def _jump(self, step: int, name: str) -> Signal | None:
        """The median of the latest steps against the window before them."""
        values = self._last[name]
        if len(values) < LATEST + PAST:
            return None
        past = values[:-LATEST]
        now = statistics.median(values[-LATEST:])
        usual = statistics.median(past)
        deviation = 1.4826 * statistics.median(abs(value - usual) for value in past)
        limit = max(self.limits.jump_deviations * deviation, self.limits.jump_least)
        if abs(now - usual) <= limit:
            return None
        message = f"{name.removeprefix(PART)} jumped from {usual:.3g} to {now:.3g}; it used to stay within {limit:.3g}"
        return Signal(
            "jump", "alarm" if now > usual else "warn", step, now - usual, limit, message, name
        )

    def _gap(self, record: StepRecord, truth: float) -> Signal | None:
        """The last held-out measurements against the best ones before them, and the training reward at both times."""
        if "reward" not in self._last:
            return None
        reward = statistics.median(self._last["reward"][-RECENT:])
        self._truths = [*self._truths, Measured(record.step, truth, reward, record.truth_tasks)][
            -2 * TRUTHS :
        ]
        if len(self._truths) < 2 * TRUTHS:
            return None
        before = _averaged(self._truths[:TRUTHS])
        now = _averaged(self._truths[TRUTHS:])
        if self._best is None or before.truth > self._best.truth:
            self._best = before
        best = self._best
        chance = math.hypot(best.standard_error(), now.standard_error())
        limit = max(self.limits.gap_least, self.limits.gap_deviations * chance)
        lost = best.truth - now.truth
        if lost <= limit or now.reward < best.reward:
            return None
        message = (
            f"held-out accuracy fell from {best.truth:.3g} (step {best.step}) to {now.truth:.3g}, "
            f"while the training reward went from {best.reward:.3g} to {now.reward:.3g}"
        )
        return Signal("gap", "alarm", record.step, lost, limit, message, "truth")

    def state_dict(self) -> dict[str, Any]:
        """Everything but the limits, as plain values that JSON keeps."""
        return {
            "step": self._step,
            "first": {name: list(values) for name, values in self._first.items()},
            "last": {name: list(values) for name, values in self._last.items()},
            "truths": [list(each) for each in self._truths],
            "best": None if self._best is None else list(self._best),
            "held": dict(self._held),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from `state_dict()`. Raises UsageError for a state of another form."""
        if missing := self.state_dict().keys() ^ state.keys():
            raise UsageError(
                f"this is no state of HackWatch: {', '.join(sorted(missing))} missing or unknown"
            )
        self._step = state["step"]
        self._first = {name: list(values) for name, values in state["first"].items()}
        self._last = {name: list(values) for name, values in state["last"].items()}
        self._truths = [Measured(*each) for each in state["truths"]]
        self._best = None if state["best"] is None else Measured(*state["best"])
        self._held = dict(state["held"])


class Measured(NamedTuple):
    """Held-out accuracy, and the training reward at that time."""

    step: int
    truth: float
    reward: float
    tasks: int
    """Behind the accuracy; 0 where it is not known, and then chance is not reckoned with."""

    def standard_error(self) -> float:
        # Of a rate pulled towards 1/2 by two of each kind, so that 0 of n and n of n are not taken for certain.
        rate = (self.truth * self.tasks + 2) / (self.tasks + 4)
        return math.sqrt(rate * (1 - rate) / self.tasks) if self.tasks else 0.0


def _averaged(measured: Sequence[Measured]) -> Measured:
    """As one measurement of all their tasks, at the time of the middle one."""
    middle = measured[len(measured) // 2].step
    mean = lambda values: statistics.fmean(values)
    return Measured(
        middle,
        mean(m.truth for m in measured),
        mean(m.reward for m in measured),
        sum(m.tasks for m in measured),
    )


def modal_share(
    groups: Sequence[Sequence[str | None]], *, reading: Reading = value_of
) -> float | None:
    """Share of the answer that is most frequent across tasks, each task counting the same; rollouts without an answer are left out.

    Args:
        groups: the answers of each task's rollouts.
    Returns: from above 0 to 1; None for fewer than two tasks with an answer, which cannot show what tasks have in common.
    """
    given = [
        [reading(answer) for answer in group if answer is not None and answer.strip()]
        for group in groups
    ]
    spoken = [group for group in given if group]
    if len(spoken) < 2:
        return None
    total: defaultdict[Hashable, float] = defaultdict(float)
    for group in spoken:
        for answer in group:
            total[answer] += 1 / len(group)
    return max(total.values()) / len(spoken)


def repetition(text: str, *, n: int = 4) -> float | None:
    """Share of a text's n-grams that stood in it before; None for a text of fewer than two n-grams, which cannot repeat any.

    A gram is of words cut into pieces of at most 8 letters, and of single other signs, so that `aaaa...` is found as well.
    """
    pieces = re.findall(r"\w{1,8}|[^\w\s]", text.casefold())
    grams = [tuple(pieces[at : at + n]) for at in range(len(pieces) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if len(grams) > 1 else None
