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

from envgym.policies import StopReason
from envgym_trainer.inference.in_process.layout import RowInput
from envgym_trainer.inference.token_session import DialogueTokens, TurnRequest
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
class DialogueState(DialogueTokens):
    """Tokens of one dialogue and the state of its cache."""

    shared: int = 0
    """Length of the shared prefix in tokens. Set to 0 if no row for shared prefixes is free."""
    outer: int = 0
    """Length of the part of the shared prefix that other groups use too."""
    prompt: tuple[int, ...] = field(init=False)
    segment: SharedPrefix | None = None
    row: int | None = None
    cached: int = 0
    """Number of tokens after the shared prefix whose keys and values are cached."""
    used: int = 0
    """Number of the last plan that used the row."""
    closed: bool = False

    def __post_init__(self) -> None:
        DialogueTokens.__post_init__(self)
        self.prompt = tuple(self.ids)

    @property
    def missing(self) -> int:
        """Number of tokens after the shared prefix that are not cached yet."""
        return len(self.ids) - self.shared - self.cached


@dataclass(eq=False, slots=True)
class PendingTurn:
    """Request that waits for its response."""

    dialogue: DialogueState
    request: TurnRequest
    future: Future[StopReason] = field(default_factory=Future)


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
        for turn in sorted(self.turns, key=lambda turn: turn.dialogue.missing > 1):
            dialogue = turn.dialogue
            ids = tuple(dialogue.ids)
            if (
                ids not in planned
                and limit > 0
                and (item := self._next(dialogue, limit)) is not None
            ):
                key = item.owner if isinstance(item.owner, SharedPrefix) else ids
                if key not in planned:
                    planned[key] = item
                    limit -= len(item.work.ids)
            if ids in planned and planned[ids].complete:
                planned[ids].turns.append(turn)
        return list(planned.values())

    def sort(self) -> None:
        """Sort requests and ended dialogues by seed, so that the order of arrival has no effect."""
        self.turns.sort(key=lambda turn: turn.dialogue.seed)
        self._ended.sort(key=lambda dialogue: dialogue.seed)

    def done(self, plan: list[PlannedRow]) -> None:
        """Record that all planned inputs were computed."""
        for item in plan:
            item.owner.cached += len(item.work.ids)

    def finish(self, turn: PendingTurn) -> None:
        """End a request. The dialogue keeps its row until another one needs it."""
        self.turns.remove(turn)
        if turn.dialogue.closed:
            self.release(turn.dialogue)

    def release(self, dialogue: DialogueState) -> None:
        """End a dialogue. The next plan frees its row, because a forward pass may still use it."""
        dialogue.closed = True
        # If a request is pending, `finish` calls this method again.
        if not any(turn.dialogue is dialogue for turn in self.turns):
            self._ended.append(dialogue)

    def rewind(self, dialogue: DialogueState, count: int) -> None:
        """Drop the tokens after the first `count`, of a dialogue without a pending request.

        The last token that is kept is computed again, because its logits are needed.
        """
        dialogue.rewind(count)
        dialogue.cached = min(dialogue.cached, max(0, count - 1 - dialogue.shared))

    def forget(self) -> None:
        """Mark all cached keys and values as invalid."""
        for holder in (*self._placed.values(), *self._segments.values()):
            holder.cached = 0

    def _sweep(self) -> None:
        """Free the rows of ended dialogues after another group member has copied the cache."""
        for dialogue in self._ended:
            self._hand_on(dialogue)
            self._evict(dialogue)
            if dialogue.segment is not None:
                dialogue.segment.users -= 1
                dialogue.segment = None
        self._ended.clear()

    def _hand_on(self, dialogue: DialogueState) -> None:
        """Copy the cache of an ended dialogue to one open group member.

        The member with the longest common prefix gets it. The others can copy it from there.
        """
        heirs = [turn.dialogue for turn in self.turns if turn.dialogue.prompt == dialogue.prompt]
        if dialogue.row is None or not heirs:
            return
        heir = max(heirs, key=lambda other: common_prefix(other.ids, dialogue.ids))
        self._join(heir)
        if self._place(heir):
            self._borrow(heir)

    def _join(self, dialogue: DialogueState) -> None:
        """Assign a shared prefix to the dialogue.

        If none is available, the dialogue caches all of its tokens itself.
        """
        if dialogue.shared and dialogue.segment is None:
            of_group = dialogue.shared == len(dialogue.prompt) - 1
            dialogue.segment = self._segment(
                dialogue.prompt[: dialogue.shared], of_group=of_group, outer=dialogue.outer
            )
            dialogue.shared = len(dialogue.segment.ids) if dialogue.segment else 0

    def _next(self, dialogue: DialogueState, limit: int) -> PlannedRow | None:
        """Return the next input of the dialogue, or None if no row is free.

        If its shared prefix is incomplete, return the next input of the prefix.
        """
        self._join(dialogue)
        segment = dialogue.segment
        if segment is not None and segment.cached < len(segment.ids):
            return self._fill(segment, limit)
        if not self._place(dialogue):
            return None
        assert dialogue.row is not None
        self._borrow(dialogue)
        first = dialogue.shared + dialogue.cached
        ids = dialogue.ids[first : first + limit]
        work = RowInput(
            ids, dialogue.row, dialogue.cached, segment.row if segment else 0, dialogue.shared
        )
        return PlannedRow(work, dialogue, complete=first + len(ids) == len(dialogue.ids))

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

    def _place(self, dialogue: DialogueState) -> bool:
        """Assign a row to the dialogue. Return False if all rows are busy.

        If no row is free, the least recently used idle dialogue is evicted.
        """
        dialogue.used = self._tick
        if dialogue.row is not None:
            return True
        if not self._free:
            busy = {id(turn.dialogue) for turn in self.turns}
            idle = [other for other in self._placed.values() if id(other) not in busy]
            if not idle:
                return False
            self._evict(min(idle, key=lambda other: other.used))
        dialogue.row = heapq.heappop(self._free)
        self._placed[dialogue.row] = dialogue
        self._siblings.setdefault(dialogue.prompt, []).append(dialogue)
        return True

    def _borrow(self, dialogue: DialogueState) -> None:
        """Copy missing keys and values from another group member.

        The last token is always computed, because its logits are needed.
        """
        if dialogue.missing <= 1:
            return
        end = len(dialogue.ids) - 1
        sources = [
            (common_prefix(dialogue.ids[:end], other.ids[: other.shared + other.cached]), other)
            for other in self._siblings[dialogue.prompt]
            if other is not dialogue and other.segment is dialogue.segment
        ]
        reach, source = max(sources, key=lambda found: found[0], default=(0, dialogue))
        if reach - dialogue.shared > dialogue.cached:
            assert source.row is not None
            assert dialogue.row is not None
            self._copy(source.row, dialogue.row, dialogue.cached, reach - dialogue.shared)
            dialogue.cached = reach - dialogue.shared

    def _evict(self, dialogue: DialogueState) -> None:
        if dialogue.row is not None:
            del self._placed[dialogue.row]
            heapq.heappush(self._free, dialogue.row)
            siblings = self._siblings[dialogue.prompt]
            siblings.remove(dialogue)
            if not siblings:
                del self._siblings[dialogue.prompt]
        dialogue.row = None
        dialogue.cached = 0
