"""Pool of boxes for one app. It leases warm, clean boxes to sessions.

The pool fills a box before it starts the next one. A box that reached its episode, age or memory
limit, was left dirty or broke the protocol gets no new session; it ends after its last session and
is replaced in the background. With isolation `container` a box serves one session and some fresh
boxes are kept ready. While no box can be started, `lease` waits and the pool retries with
exponential backoff. See `local.py` and `docker.py` for starting a box, `stdio.py` for the protocol.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from envgym.errors import EnvgymError, UsageError, WorldFailure
from envgym.sandbox.box.channel import Box
from envgym.sandbox.options import SandboxOptions
from envgym.sandbox.statistics import Statistics

FULL_SECONDS = 0.2
"""Seconds during which a box without free processes gets no new session."""
FIRST_PAUSE_SECONDS = 0.25
LONGEST_PAUSE_SECONDS = 30.0
"""Maximum pause between failed starts of a box, in seconds. Each failure doubles the pause."""
LOOK_EVERY = 64
"""Episodes of a box between two memory measurements."""
CLOSE_SECONDS = 20.0
HEAD_START_SECONDS = 0.03
"""Seconds to wait before the next box is started, unless sessions wait for one. Starting a box uses
a full core, which the session just opened needs.
"""


@dataclass(eq=False)
class Slot:
    """One box in the pool and its usage."""

    box: Box
    sessions: int = 0
    episodes: int = 0
    born: float = 0.0
    memory: int = 0
    """Memory of the box when it was new, in bytes."""
    full_until: float = 0.0
    leaving: str = ""
    """Reason why the box gets no new session. Empty if it still does."""


class Pool:
    """Lease boxes to sessions. Safe to use from many threads.

    Args:
        start: Returns a new box. May raise EnvgymError.
        options: Number of boxes and their limits.
    """

    def __init__(self, start: Callable[[], Box], options: SandboxOptions, statistics: Statistics):
        self._start = start
        self._statistics = statistics
        self._alone = options.level == "container"
        self._rules = options.pool
        self._most = options.most_boxes
        self._sessions = 1 if self._alone else options.pool.sessions
        self._changed = threading.Condition()
        self._slots: list[Slot] = []
        self._starting = self._ending = self._waiting = 0
        self._trouble: EnvgymError | None = None
        self._ended_cpu_seconds = 0.0
        self._pause = FIRST_PAUSE_SECONDS
        self._not_before = 0.0
        self.has_worked = self._closed = False
        statistics.count("pool/hits", 0)
        statistics.count("pool/waits", 0)

    def lease(self, *, timeout_seconds: float) -> Slot:
        """Return a box with room for one more session, waiting if necessary.

        Raises:
            PrerequisiteError, SpecError: If the very first box does not start.
            WorldFailure: Kind `timeout` or `sandbox_lost`, stage `open`, at the deadline.
            UsageError: If the pool is closed.
        """
        with self._changed:
            is_hit = self._best() is not None
            slot = self._wait_for_room(timeout_seconds)
            self._statistics.count("pool/hits" if is_hit else "pool/waits")
            slot.sessions += 1
            slot.episodes += 1
            self._staff()
            return slot

    def any_box(self, *, timeout_seconds: float) -> Box:
        """Return a box for a query about the app, without a session. Raises as `lease` does."""
        with self._changed:
            return self._wait_for_room(timeout_seconds).box

    def release(self, slot: Slot) -> None:
        """Return a box to the pool after a session has ended."""
        with self._changed:
            slot.sessions -= 1
            self._retire_if_due(slot)
            self._changed.notify_all()
            look = not slot.leaving and slot.episodes % LOOK_EVERY == 0 and slot.sessions == 0
        if look:
            self._look_at_memory(slot)

    def look_at_sessions(self) -> None:
        """Record the memory per session: the growth of each box divided by its open sessions."""
        with self._changed:
            slots = [slot for slot in self._slots if slot.sessions]
        for slot in slots:
            with contextlib.suppress(WorldFailure):  # A lost box fails its sessions anyway.
                usage = slot.box.usage()
                sessions = slot.sessions
                if usage.is_whole and sessions:
                    self._statistics.note(
                        "session_mb", (usage.memory - slot.memory) / 2**20 / sessions
                    )

    def is_full(self, slot: Slot) -> None:
        """Mark a box without free processes, so that other boxes are tried first for a while."""
        with self._changed:
            slot.full_until = time.monotonic() + FULL_SECONDS

    def retire(self, slot: Slot, reason: str) -> None:
        """Give the box no new session; it ends after its last one.

        `reason` is a word such as `dirty`.
        """
        with self._changed:
            if not slot.leaving:
                slot.leaving = reason
                self._statistics.count(f"recycled/{reason}")
            self._retire_if_due(slot)
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            # Starting and ending a box still needs the container engine.
            self._changed.wait_for(
                lambda: not self._starting and not self._ending, timeout=CLOSE_SECONDS
            )
            slots = self._slots
            self._slots = []
        for slot in slots:
            slot.box.end("the sandbox was closed")

    def cpu_seconds(self) -> float:
        """Return the CPU seconds of all boxes, retired ones included.

        Waits for boxes that are ending.
        """
        with self._changed:
            self._changed.wait_for(lambda: not self._ending, timeout=CLOSE_SECONDS)
        return self._ended_cpu_seconds + sum(box.usage().cpu_seconds for box in self.boxes)

    @property
    def boxes(self) -> list[Box]:
        """Boxes that are currently in the pool."""
        with self._changed:
            return [slot.box for slot in self._slots]

    # --- all methods below are called with the lock held, except for `_create` and `_end` ---

    def _check_open(self) -> None:
        if self._closed:
            raise UsageError("this sandbox is closed; open another one with open_sandbox()")
        if self._trouble and not self.has_worked:
            trouble = self._trouble
            self._trouble = None
            raise trouble

    def _best(self) -> Slot | None:
        """Return the fullest box with room, so that others can drain. Removes lost boxes."""
        for slot in [slot for slot in self._slots if slot.box.lost is not None]:
            self._slots.remove(slot)
            self._statistics.count("recycled/lost")
        now = time.monotonic()
        open_ones = [
            slot
            for slot in self._slots
            if not slot.leaving and slot.sessions < self._sessions and slot.full_until <= now
        ]
        return max(open_ones, key=lambda slot: slot.sessions, default=None)

    def _wait_for_room(self, timeout_seconds: float) -> Slot:
        deadline = time.monotonic() + timeout_seconds
        self._waiting += 1
        try:
            while True:
                self._check_open()
                if slot := self._best():
                    return slot
                self._staff()
                self._wait(deadline)
        finally:
            self._waiting -= 1

    def _wait(self, deadline: float) -> None:
        left = deadline - time.monotonic()
        if left > 0:
            # A lost box does not notify, and a pause or a full box ends by itself.
            self._changed.wait(min(left, FULL_SECONDS))
        elif self._trouble:
            raise WorldFailure(
                "sandbox_lost", f"no box can be started: {self._trouble}", stage="open"
            )
        else:
            raise WorldFailure(
                "timeout", f"none of {len(self._slots)} boxes had room in time", stage="open"
            )

    def _staff(self) -> None:
        """Start one creator thread for each missing box."""
        if self._closed or time.monotonic() < self._not_before:
            return
        usable = [slot for slot in self._slots if not slot.leaving and slot.box.lost is None]
        now = time.monotonic()
        spare = (
            self._rules.ready
            if self._alone and self.has_worked
            else int(self.has_worked and not usable)
        )
        room = (
            sum(self._sessions - slot.sessions for slot in usable if slot.full_until <= now)
            + self._starting * self._sessions
        )
        missing = math.ceil((self._waiting + spare - room) / self._sessions)
        # Replace boxes that wait for their last sessions early, but at most double the number of
        # boxes.
        room_for_boxes = min(self._most - len(usable), 2 * self._most - len(self._slots))
        places = min(room_for_boxes, self._rules.creators) - self._starting
        for _ in range(min(missing, places)):
            self._starting += 1
            threading.Thread(target=self._create, name="envgym-creator", daemon=True).start()

    def _create(self) -> None:
        slot = None
        trouble = None
        if not self._waiting:
            time.sleep(HEAD_START_SECONDS)
        try:
            with self._statistics.timed("start"):
                box = self._start()
            slot = Slot(box, born=time.monotonic(), memory=box.usage().memory)
        except EnvgymError as error:
            trouble = error
        except Exception as error:  # Waiting sessions must always get an answer.
            trouble = WorldFailure("sandbox_lost", f"{type(error).__name__}: {error}", stage="open")
        if slot and self._closed:
            slot.box.end("the sandbox was closed")
        with self._changed:
            self._starting -= 1
            self._trouble = trouble
            if slot is None:
                self._not_before = time.monotonic() + self._pause
                self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)
            else:
                self._pause = FIRST_PAUSE_SECONDS
                self.has_worked = True
                slot.box.on_dirty = lambda _: self.retire(slot, "dirty")
                self._slots.append(slot)
                self._staff()
            self._changed.notify_all()

    def _retire_if_due(self, slot: Slot) -> None:
        rules = self._rules.recycle
        if not slot.leaving:
            if self._alone:
                slot.leaving = "used"
            elif slot.episodes >= rules.episodes:
                slot.leaving = "episodes"
            elif time.monotonic() - slot.born >= rules.seconds:
                slot.leaving = "age"
            if slot.leaving:
                self._statistics.count(f"recycled/{slot.leaving}")
        if slot.leaving and slot.sessions == 0 and slot in self._slots:
            self._slots.remove(slot)
            # Ending a container takes 100 ms; no session should wait for it.
            self._ending += 1
            threading.Thread(
                target=self._end, args=(slot,), name="envgym-retire", daemon=True
            ).start()
            self._staff()

    def _end(self, slot: Slot) -> None:
        with contextlib.suppress(WorldFailure):
            self._ended_cpu_seconds += slot.box.usage().cpu_seconds
        slot.box.end(f"the box was retired: {slot.leaving}")
        with self._changed:
            self._ending -= 1
            self._changed.notify_all()

    def _look_at_memory(self, slot: Slot) -> None:
        try:
            grown = slot.box.usage().memory - slot.memory
        except WorldFailure:
            return  # The box is lost; the next lease removes it.
        self._statistics.count("memory/looks")
        if grown > self._rules.recycle.growth_mb * 2**20:
            self.retire(slot, "memory")
