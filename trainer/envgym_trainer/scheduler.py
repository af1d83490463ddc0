"""Who computes what at the next step: rows, shared segments and the queue of turns, in plain Python.

Holds no tensor. The engine calls it under its lock, asks for a plan, computes it, and reports it done.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from envgym.policies import StopReason
from envgym_trainer.layout import Work


@dataclass(eq=False, slots=True)
class Segment:
    """Ids that several dialogues begin with, stored once."""

    ids: tuple[int, ...]
    row: int
    cached: int = 0
    users: int = 0


@dataclass(eq=False, slots=True)
class Track:
    """One dialogue's tokens and what of them is stored."""

    ids: list[int]
    shared: int
    """First ids that many dialogues have in common; becomes 0 where no segment could be had."""
    seed: int
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

    def take(self, token: int, logprob: float, stop_ids: frozenset[int], max_context: int) -> StopReason | None:
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
    turn: Turn | None = None
    """The turn that samples after this work; None for a segment and for a part of a long prompt."""


class Scheduler:
    """Rows and turns.

    Args:
        rows: dialogues that can be stored. shared_rows: segments that can.
        copy: copies the first n tokens of one row to another.
    """

    def __init__(self, *, rows: int, shared_rows: int, copy: Callable[[int, int, int], None]):
        self.turns: list[Turn] = []
        self._copy = copy
        self._free, self._free_shared = list(range(rows)), list(range(shared_rows))
        self._placed: dict[int, Track] = {}
        self._segments: dict[tuple[int, ...], Segment] = {}
        self._leaders: dict[tuple[int, ...], Track] = {}
        self._tick = 0

    def plan(self, limit: int) -> list[Planned]:
        """What to compute next, at most `limit` tokens; dialogues that decode come before prompts."""
        self._tick += 1
        planned: dict[Segment | Track, Planned] = {}
        for turn in sorted(self.turns, key=lambda turn: turn.track.missing > 1):
            if limit < 1:
                break
            if (item := self._next(turn, limit)) is not None and item.owner not in planned:
                planned[item.owner] = item
                limit -= len(item.work.ids)
        return list(planned.values())

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
        """A dialogue has ended."""
        track.closed = True
        if any(turn.track is track for turn in self.turns):
            return  # `finish` comes back here
        self._evict(track)
        if track.segment is not None:
            track.segment.users -= 1
            track.segment = None

    def forget(self) -> None:
        """Nothing stored is valid any more."""
        for holder in (*self._placed.values(), *self._segments.values()):
            holder.cached = 0
        self._leaders.clear()

    def _next(self, turn: Turn, limit: int) -> Planned | None:
        """The next work of this turn, that of its segment first; None while it must wait for others."""
        track = turn.track
        if track.shared and track.segment is None:
            track.segment = self._segment(tuple(track.ids[: track.shared]))
            track.shared = len(track.segment.ids) if track.segment else 0
        segment = track.segment
        if segment is not None and segment.cached < len(segment.ids):
            ids = segment.ids[segment.cached : segment.cached + limit]
            return Planned(Work(ids, segment.row, segment.cached, own=False), segment)
        if not (self._place(track) and self._follow(track)):
            return None
        assert track.row is not None
        first = track.shared + track.cached
        ids = track.ids[first : first + limit]
        work = Work(ids, track.row, track.cached, segment.row if segment else 0, track.shared)
        return Planned(work, track, turn if first + len(ids) == len(track.ids) else None)

    def _segment(self, ids: tuple[int, ...]) -> Segment | None:
        """The segment with these ids, new or known; None where every row is in use."""
        found = self._segments.get(ids)
        if found is None:
            if not self._free_shared and (idle := next((s for s in self._segments.values() if not s.users), None)):
                del self._segments[idle.ids]
                heapq.heappush(self._free_shared, idle.row)
            if not self._free_shared:
                return None
            found = self._segments[ids] = Segment(ids, heapq.heappop(self._free_shared))
        found.users += 1
        return found

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
        return True

    def _follow(self, track: Track) -> bool:
        """Takes the prompt from a sibling that has computed it; False while a sibling is at it."""
        count = len(track.prompt) - track.shared - 1  # the last one is computed again: its logits are needed
        if track.cached or count < 1:
            return True
        leader = self._leaders.get(track.prompt)
        if leader is None or leader is track or leader.shared != track.shared or not self._is_alive(leader, count):
            self._leaders[track.prompt] = track
            return True
        if leader.cached < count:
            return False
        assert leader.row is not None
        assert track.row is not None
        self._copy(leader.row, track.row, count)
        track.cached = count
        return True

    def _is_alive(self, leader: Track, count: int) -> bool:
        """Whether the leader has the prompt or is about to."""
        return leader.row is not None and (leader.cached >= count or any(turn.track is leader for turn in self.turns))

    def _evict(self, track: Track) -> None:
        if track.row is not None:
            del self._placed[track.row]
            heapq.heappush(self._free, track.row)
        if self._leaders.get(track.prompt) is track:
            del self._leaders[track.prompt]
        track.row, track.cached = None, 0
