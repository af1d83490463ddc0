"""Batch scheduler of the in-process engine: KV-cache rows, shared prefixes and pending requests.

A shared prefix is stored once. A group's prefix may itself begin with a prefix of several groups,
which is then copied. Dialogues with the same prompt also share each forward pass until their tokens
diverge: one of them is computed and the others sample from the same logits. A dialogue that
diverges copies the cached keys and values.

The scheduler holds no tensors. The engine calls it under its lock: `plan`, compute, `done`.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from envgym.policies import StopReason
from envgym_trainer.inference.in_process.layout import RowInput
from envgym_trainer.learner.prefix_tree import common_prefix


@dataclass(eq=False, slots=True)
class SharedPrefix:
    """Prefix of several dialogues, stored once."""

    ids: tuple[int, ...]
    row: int
    outer: SharedPrefix | None
    """Shorter prefix that this one begins with."""
    of_group: bool
    """Whether only one group uses this prefix."""
    cached: int = 0
    users: int = 0
    """Number of open dialogues and of longer prefixes that use this one."""


@dataclass(eq=False, slots=True)
class DialogueState:
    """Tokens of one dialogue and the state of its cache."""

    ids: list[int]
    shared: int
    """Length of the shared prefix in tokens. Set to 0 if no row for shared prefixes is free."""
    seed: int
    outer: int = 0
    """Length of the part of the shared prefix that other groups use too."""
    mask: list[bool] = field(init=False)
    logprobs: list[float] = field(init=False)
    prompt: tuple[int, ...] = field(init=False)
    segment: SharedPrefix | None = None
    row: int | None = None
    cached: int = 0
    """Number of tokens after the shared prefix whose keys and values are cached."""
    used: int = 0
    closed: bool = False
    random: Callable[[], float] = field(init=False)
    """Function that returns the next uniform number in [0, 1) of the dialogue's generator."""

    def __post_init__(self) -> None:
        self.prompt = tuple(self.ids)
        self.mask, self.logprobs = [False] * len(self.ids), [0.0] * len(self.ids)
        self.random = np.random.default_rng(self.seed).random

    def extend(self, ids: list[int]) -> None:
        """Append tokens that were not sampled."""
        self.ids += ids
        self.mask += [False] * len(ids)
        self.logprobs += [0.0] * len(ids)

    @property
    def missing(self) -> int:
        """Return the number of tokens after the shared prefix that are not cached yet."""
        return len(self.ids) - self.shared - self.cached


@dataclass(eq=False, slots=True)
class PendingTurn:
    """Pending request for one response."""

    track: DialogueState
    temperature: float
    max_new_tokens: int
    future: Future[StopReason] = field(default_factory=Future)
    count: int = 0
    """Number of tokens sampled so far."""

    def take(
        self, token: int, logprob: float, stop_ids: frozenset[int], max_context: int
    ) -> StopReason | None:
        """Append a sampled token. Return the stop reason, or None if the response goes on."""
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
class PlannedRow:
    """Input of one row in the next forward pass, with the requests that sample from it."""

    work: RowInput
    owner: DialogueState | SharedPrefix
    complete: bool = False
    """Whether the input ends with the owner's last token. False for a prefix and for a partial
    prompt.
    """
    turns: list[PendingTurn] = field(default_factory=list)
    """Requests that sample from the logits: the owner's, and others with the same tokens so far."""


class Scheduler:
    """Assignment of KV-cache rows to dialogues and of pending requests to forward passes.

    Args:
        rows: Number of rows for dialogues.
        shared_rows: Number of rows for shared prefixes.
        copy: Copies cached tokens between rows: `copy(source, target, start, stop)`. With
            `own=False` the source is the row of a shared prefix.
    """

    def __init__(self, *, rows: int, shared_rows: int, copy: Callable[..., None]):
        self.turns: list[PendingTurn] = []
        self._copy = copy
        self._free, self._free_shared = list(range(rows)), list(range(shared_rows))
        self._placed: dict[int, DialogueState] = {}
        self._siblings: dict[tuple[int, ...], list[DialogueState]] = {}
        """Dialogues that hold a row, by prompt."""
        self._segments: dict[tuple[int, ...], SharedPrefix] = {}
        self._ended: list[DialogueState] = []
        """Closed dialogues that still hold a row or a prefix."""
        self._tick = 0

    def plan(self, limit: int) -> list[PlannedRow]:
        """Return the inputs of the next forward pass, at most `limit` tokens.

        Dialogues that decode come before prompts.
        """
        self._tick += 1
        self._sweep()
        planned: dict[SharedPrefix | tuple[int, ...], PlannedRow] = {}
        for turn in sorted(self.turns, key=lambda turn: turn.track.missing > 1):
            track = turn.track
            ids = tuple(track.ids)
            if ids not in planned and limit > 0 and (item := self._next(track, limit)) is not None:
                key = item.owner if isinstance(item.owner, SharedPrefix) else ids
                if key not in planned:
                    planned[key] = item
                    limit -= len(item.work.ids)
            if ids in planned and planned[ids].complete:
                planned[ids].turns.append(turn)
        return list(planned.values())

    def sort(self) -> None:
        """Sort requests and ended dialogues by seed, so that the order of arrival has no effect."""
        self.turns.sort(key=lambda turn: turn.track.seed)
        self._ended.sort(key=lambda track: track.seed)

    def done(self, plan: list[PlannedRow]) -> None:
        """Record that all planned inputs were computed."""
        for item in plan:
            item.owner.cached += len(item.work.ids)

    def finish(self, turn: PendingTurn) -> None:
        """End a request. The dialogue keeps its row until another one needs it."""
        self.turns.remove(turn)
        if turn.track.closed:
            self.release(turn.track)

    def release(self, track: DialogueState) -> None:
        """End a dialogue. The next plan frees its row, because a forward pass may still use it."""
        track.closed = True
        # If a request is pending, `finish` calls this method again.
        if not any(turn.track is track for turn in self.turns):
            self._ended.append(track)

    def forget(self) -> None:
        """Mark all cached keys and values as invalid."""
        for holder in (*self._placed.values(), *self._segments.values()):
            holder.cached = 0

    def _sweep(self) -> None:
        """Free the rows of ended dialogues after another group member has copied the cache."""
        for track in self._ended:
            self._hand_on(track)
            self._evict(track)
            if track.segment is not None:
                track.segment.users -= 1
                track.segment = None
        self._ended.clear()

    def _hand_on(self, track: DialogueState) -> None:
        """Copy the cache of an ended dialogue to one open group member.

        The member with the longest common prefix gets it. The others can copy it from there.
        """
        heirs = [turn.track for turn in self.turns if turn.track.prompt == track.prompt]
        if track.row is None or not heirs:
            return
        heir = max(heirs, key=lambda other: common_prefix(other.ids, track.ids))
        self._join(heir)
        if self._place(heir):
            self._borrow(heir)

    def _join(self, track: DialogueState) -> None:
        """Assign a shared prefix to the dialogue.

        If none is available, the dialogue caches all of its tokens itself.
        """
        if track.shared and track.segment is None:
            of_group = track.shared == len(track.prompt) - 1
            track.segment = self._segment(
                track.prompt[: track.shared], of_group=of_group, outer=track.outer
            )
            track.shared = len(track.segment.ids) if track.segment else 0

    def _next(self, track: DialogueState, limit: int) -> PlannedRow | None:
        """Return the next input of the dialogue, or None if no row is free.

        If its shared prefix is incomplete, return the next input of the prefix.
        """
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
        work = RowInput(ids, track.row, track.cached, segment.row if segment else 0, track.shared)
        return PlannedRow(work, track, complete=first + len(ids) == len(track.ids))

    def _fill(self, segment: SharedPrefix, limit: int) -> PlannedRow:
        """Return the next input of an incomplete prefix. Its outer prefix is filled first."""
        outer = segment.outer
        if outer is not None and segment.cached < len(outer.ids):
            if outer.cached < len(outer.ids):
                return self._fill(outer, limit)
            self._copy(outer.row, segment.row, segment.cached, len(outer.ids), own=False)
            segment.cached = len(outer.ids)
        ids = segment.ids[segment.cached : segment.cached + limit]
        return PlannedRow(RowInput(ids, segment.row, segment.cached, own=False), segment)

    def _segment(
        self, ids: tuple[int, ...], *, of_group: bool = False, outer: int = 0
    ) -> SharedPrefix | None:
        """Return the prefix with these tokens, new or existing, or None if no row is free."""
        if (found := self._segments.get(ids)) is None:
            begins = self._segment(ids[:outer]) if outer else None
            if (row := self._shared_row()) is None:
                if begins is not None:
                    begins.users -= 1
                return None
            found = self._segments[ids] = SharedPrefix(ids, row, begins, of_group)
        found.users += 1
        return found

    def _shared_row(self) -> int | None:
        """Return a row for a shared prefix, or None if all rows are in use.

        Rows of unused group prefixes come first, then free rows, then rows of any unused prefix.
        """
        idle = [segment for segment in self._segments.values() if not segment.users]
        idle.sort(key=lambda segment: not segment.of_group)
        if idle and (idle[0].of_group or not self._free_shared):
            del self._segments[idle[0].ids]
            if (outer := idle[0].outer) is not None:
                outer.users -= 1
            return idle[0].row
        return heapq.heappop(self._free_shared) if self._free_shared else None

    def _place(self, track: DialogueState) -> bool:
        """Assign a row to the dialogue. Return False if all rows are busy.

        If no row is free, the least recently used idle dialogue is evicted.
        """
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

    def _borrow(self, track: DialogueState) -> None:
        """Copy missing keys and values from another group member.

        The last token is always computed, because its logits are needed.
        """
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

    def _evict(self, track: DialogueState) -> None:
        if track.row is not None:
            del self._placed[track.row]
            heapq.heappush(self._free, track.row)
            siblings = self._siblings[track.prompt]
            siblings.remove(track)
            if not siblings:
                del self._siblings[track.prompt]
        track.row = None
        track.cached = 0
