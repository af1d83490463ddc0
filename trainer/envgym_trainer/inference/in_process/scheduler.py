"""Who computes what at the next step: rows, shared segments and the queue of turns, in plain Python.

Nothing is computed twice. A segment is stored once for all who begin with it; a group's may begin with one that other groups
begin with too, and copies that. Siblings, dialogues of one prompt, are computed
once for as long as they say the same: one of them works, the others draw their own token from its logits, and whoever
departs from it copies what it has stored. A sharp policy departs late, so most of a group's tokens cost nothing.

Holds no tensor. The engine calls it under its lock, asks for a plan, computes it, and reports it done.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from envgym.policies import StopReason
from envgym_trainer.inference.in_process.layout import Work
from envgym_trainer.learner.prefix_tree import common_prefix


@dataclass(eq=False, slots=True)
class Segment:
    """Ids that several dialogues begin with, stored once."""

    ids: tuple[int, ...]
    row: int
    outer: Segment | None
    """What it begins with itself."""
    of_group: bool
    """Whether nobody but the group will ever need it."""
    cached: int = 0
    users: int = 0
    """Open dialogues, and segments that begin with it."""


@dataclass(eq=False, slots=True)
class Track:
    """One dialogue's tokens and what of them is stored."""

    ids: list[int]
    shared: int
    """First ids that many dialogues have in common; becomes 0 where no segment could be had."""
    seed: int
    outer: int = 0
    """First of the shared ids that even more dialogues have in common: then the others are those of its group alone."""
    mask: list[bool] = field(init=False)
    logprobs: list[float] = field(init=False)
    prompt: tuple[int, ...] = field(init=False)
    segment: Segment | None = None
    row: int | None = None
    cached: int = 0
    """Own ids (those after the segment) whose keys and values are in the row."""
    used: int = 0
    closed: bool = False
    random: Callable[[], float] = field(init=False)
    """Uniform in [0, 1), from the dialogue's own generator."""

    def __post_init__(self) -> None:
        self.prompt = tuple(self.ids)
        self.mask, self.logprobs = [False] * len(self.ids), [0.0] * len(self.ids)
        self.random = np.random.default_rng(self.seed).random

    def extend(self, ids: list[int]) -> None:
        """Appends ids that nobody sampled."""
        self.ids += ids
        self.mask += [False] * len(ids)
        self.logprobs += [0.0] * len(ids)

    @property
    def missing(self) -> int:
        """Ids without keys and values, the segment's not counted."""
        return len(self.ids) - self.shared - self.cached


@dataclass(eq=False, slots=True)
class Turn:
    """One answer in the making."""

    track: Track
    temperature: float
    max_new_tokens: int
    future: Future[StopReason] = field(default_factory=Future)
    count: int = 0
    """Tokens sampled so far."""

    def take(
        self, token: int, logprob: float, stop_ids: frozenset[int], max_context: int
    ) -> StopReason | None:
        """Appends a sampled token; says why the turn ends with it, or None."""
        self.track.ids.append(token)
        self.track.mask.append(True)
        self.track.logprobs.append(logprob)
        self.count += 1
        if token in stop_ids:
            return "stop"
        if self.count >= self.max_new_tokens:
            return "length"
        return "context" if len(self.track.ids) >= max_context else None


@dataclass(frozen=True, slots=True)
class Planned:
    """Work of the next pass and whom it belongs to."""

    work: Work
    owner: Track | Segment
    complete: bool = False
    """Whether it ends with the owner's last id; not so for a segment and for a part of a long prompt."""
    turns: list[Turn] = field(default_factory=list)
    """Who samples after it: the owner's turn, and those of siblings that have said the same so far."""


class Scheduler:
    """Rows and turns.

    Args:
        rows: dialogues that can be stored. shared_rows: segments that can.
        copy: copies the tokens from `start` to `stop` of one row to another: copy(source, target, start, stop); with
            own=False of one segment's row.
    """

    def __init__(self, *, rows: int, shared_rows: int, copy: Callable[..., None]):
        self.turns: list[Turn] = []
        self._copy = copy
        self._free, self._free_shared = list(range(rows)), list(range(shared_rows))
        self._placed: dict[int, Track] = {}
        self._siblings: dict[tuple[int, ...], list[Track]] = {}
        """Placed dialogues by their prompt."""
        self._segments: dict[tuple[int, ...], Segment] = {}
        self._ended: list[Track] = []
        """Closed dialogues that still hold what they held."""
        self._tick = 0

    def plan(self, limit: int) -> list[Planned]:
        """What to compute next, at most `limit` tokens; dialogues that decode come before prompts."""
        self._tick += 1
        self._sweep()
        planned: dict[Segment | tuple[int, ...], Planned] = {}
        for turn in sorted(self.turns, key=lambda turn: turn.track.missing > 1):
            track = turn.track
            ids = tuple(track.ids)
            if ids not in planned and limit > 0 and (item := self._next(track, limit)) is not None:
                key = item.owner if isinstance(item.owner, Segment) else ids
                if key not in planned:
                    planned[key] = item
                    limit -= len(item.work.ids)
            if ids in planned and planned[ids].complete:
                planned[ids].turns.append(turn)
        return list(planned.values())

    def sort(self) -> None:
        """Puts turns and ended dialogues in an order of their own, that of their seeds, whoever came first."""
        self.turns.sort(key=lambda turn: turn.track.seed)
        self._ended.sort(key=lambda track: track.seed)

    def done(self, plan: list[Planned]) -> None:
        """Everything planned has been computed."""
        for item in plan:
            item.owner.cached += len(item.work.ids)

    def finish(self, turn: Turn) -> None:
        """A turn has ended; its dialogue keeps its row until someone else needs it."""
        self.turns.remove(turn)
        if turn.track.closed:
            self.release(turn.track)

    def release(self, track: Track) -> None:
        """A dialogue has ended. The next plan takes its row: until then a pass may be at work on it."""
        track.closed = True
        if not any(turn.track is track for turn in self.turns):  # else `finish` comes back here
            self._ended.append(track)

    def forget(self) -> None:
        """Nothing stored is valid any more."""
        for holder in (*self._placed.values(), *self._segments.values()):
            holder.cached = 0

    def _sweep(self) -> None:
        """Takes from dialogues that have ended what they held, once a sibling has copied what they need of it."""
        for track in self._ended:
            self._hand_on(track)
            self._evict(track)
            if track.segment is not None:
                track.segment.users -= 1
                track.segment = None
        self._ended.clear()

    def _hand_on(self, track: Track) -> None:
        """Gives what an ended dialogue has stored to the sibling that shares most of it; the others can copy it from there."""
        heirs = [turn.track for turn in self.turns if turn.track.prompt == track.prompt]
        if track.row is None or not heirs:
            return
        heir = max(heirs, key=lambda other: common_prefix(other.ids, track.ids))
        self._join(heir)
        if self._place(heir):
            self._borrow(heir)

    def _join(self, track: Track) -> None:
        """Finds the dialogue its segment; without one it stores all of its ids itself."""
        if track.shared and track.segment is None:
            of_group = track.shared == len(track.prompt) - 1
            track.segment = self._segment(
                track.prompt[: track.shared], of_group=of_group, outer=track.outer
            )
            track.shared = len(track.segment.ids) if track.segment else 0

    def _next(self, track: Track, limit: int) -> Planned | None:
        """The next work of this dialogue, that of its segment first; None while no row is free."""
        self._join(track)
        segment = track.segment
        if segment is not None and segment.cached < len(segment.ids):
            return self._fill(segment, limit)
        if not self._place(track):
            return None
        assert track.row is not None
        self._borrow(track)
        first = track.shared + track.cached
        ids = track.ids[first : first + limit]
        work = Work(ids, track.row, track.cached, segment.row if segment else 0, track.shared)
        return Planned(work, track, complete=first + len(ids) == len(track.ids))

    def _fill(self, segment: Segment, limit: int) -> Planned:
        """The next work of a segment that is not whole, that of its outer one first."""
        outer = segment.outer
        if outer is not None and segment.cached < len(outer.ids):
            if outer.cached < len(outer.ids):
                return self._fill(outer, limit)
            self._copy(outer.row, segment.row, segment.cached, len(outer.ids), own=False)
            segment.cached = len(outer.ids)
        ids = segment.ids[segment.cached : segment.cached + limit]
        return Planned(Work(ids, segment.row, segment.cached, own=False), segment)

    def _segment(
        self, ids: tuple[int, ...], *, of_group: bool = False, outer: int = 0
    ) -> Segment | None:
        """The segment with these ids, new or known; None where every row is in use."""
        if (found := self._segments.get(ids)) is None:
            begins = self._segment(ids[:outer]) if outer else None
            if (row := self._shared_row()) is None:
                if begins is not None:
                    begins.users -= 1
                return None
            found = self._segments[ids] = Segment(ids, row, begins, of_group)
        found.users += 1
        return found

    def _shared_row(self) -> int | None:
        """A row for a segment: that of a group that is through, a free one, or that of any segment without users."""
        idle = [segment for segment in self._segments.values() if not segment.users]
        idle.sort(key=lambda segment: not segment.of_group)
        if idle and (idle[0].of_group or not self._free_shared):
            del self._segments[idle[0].ids]
            if (outer := idle[0].outer) is not None:
                outer.users -= 1
            return idle[0].row
        return heapq.heappop(self._free_shared) if self._free_shared else None

    def _place(self, track: Track) -> bool:
        """Gives the dialogue a row, if need be that of the dialogue that has been idle for longest."""
        track.used = self._tick
        if track.row is not None:
            return True
        if not self._free:
            busy = {id(turn.track) for turn in self.turns}
            idle = [other for other in self._placed.values() if id(other) not in busy]
            if not idle:
                return False
            self._evict(min(idle, key=lambda other: other.used))
        track.row = heapq.heappop(self._free)
        self._placed[track.row] = track
        self._siblings.setdefault(track.prompt, []).append(track)
        return True

    def _borrow(self, track: Track) -> None:
        """Copies what a sibling has stored of the ids that this one lacks; the last id is computed, for its logits."""
        if track.missing <= 1:
            return
        end = len(track.ids) - 1
        sources = [
            (common_prefix(track.ids[:end], other.ids[: other.shared + other.cached]), other)
            for other in self._siblings[track.prompt]
            if other is not track and other.segment is track.segment
        ]
        reach, source = max(sources, key=lambda found: found[0], default=(0, track))
        if reach - track.shared > track.cached:
            assert source.row is not None
            assert track.row is not None
            self._copy(source.row, track.row, track.cached, reach - track.shared)
            track.cached = reach - track.shared

    def _evict(self, track: Track) -> None:
        if track.row is not None:
            del self._placed[track.row]
            heapq.heappush(self._free, track.row)
            siblings = self._siblings[track.prompt]
            siblings.remove(track)
            if not siblings:
                del self._siblings[track.prompt]
        track.row = None
        track.cached = 0
