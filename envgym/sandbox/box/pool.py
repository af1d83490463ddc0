"""A pool of boxes for one app: sessions are spread over boxes that are warm, clean and not too old.

A box is filled before the next one starts. One that served enough, grew too much, was left unclean or broke the protocol gets no
new session, ends with its last one, and is replaced in the background. With isolation `container` a box serves a single
session, and some fresh ones wait ready. While no box can be started, as when the engine restarts, `lease` waits and the pool
tries again at growing intervals.

Left out: how a box is started (`local.py`, `docker.py`), what goes over its wire (`stdio.py`).
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
"""A box that had no process left is not asked again for this long."""
FIRST_PAUSE_SECONDS = 0.25
LONGEST_PAUSE_SECONDS = 30.0
"""Between two attempts to start a box after one that failed; doubled each time."""
LOOK_EVERY = 64
"""Episodes of a box between two looks at its memory."""
CLOSE_SECONDS = 20.0
HEAD_START_SECONDS = 0.03
"""Starting a box takes a whole processor: who just took one opens a session first, unless others wait for a box."""


@dataclass(eq=False)
class Slot:
    """A box in the pool."""

    box: Box
    sessions: int = 0
    episodes: int = 0
    born: float = 0.0
    memory: int = 0
    """When it was new, bytes."""
    full_until: float = 0.0
    leaving: str = ""
    """Why it gets no new session; empty while it does."""


class Pool:
    """Leases boxes to sessions, from many threads.

    Args:
        start: gives a new box. Raises EnvgymError.
        options: how many boxes, how long they serve.
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
        """A box with room for one more session; waits for one.

        Raises: PrerequisiteError or SpecError where the very first box does not start; WorldFailure(`timeout` or
            `sandbox_lost`, stage `open`) at the deadline; UsageError for a pool that is closed.
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
        """A box to ask about the app, without a session. Raises as `lease` does."""
        with self._changed:
            return self._wait_for_room(timeout_seconds).box

    def release(self, slot: Slot) -> None:
        """A session of this box has ended."""
        with self._changed:
            slot.sessions -= 1
            self._retire_if_due(slot)
            self._changed.notify_all()
            look = not slot.leaving and slot.episodes % LOOK_EVERY == 0 and slot.sessions == 0
        if look:
            self._look_at_memory(slot)

    def look_at_sessions(self) -> None:
        """Notes how much memory a session takes: what its box has grown by, shared out among those that are open in it."""
        with self._changed:
            slots = [slot for slot in self._slots if slot.sessions]
        for slot in slots:
            with contextlib.suppress(WorldFailure):  # lost, which its sessions see
                usage = slot.box.usage()
                sessions = slot.sessions
                if usage.is_whole and sessions:
                    self._statistics.note(
                        "session_mb", (usage.memory - slot.memory) / 2**20 / sessions
                    )

    def is_full(self, slot: Slot) -> None:
        """The box took no session for want of processes: others are asked first for a while."""
        with self._changed:
            slot.full_until = time.monotonic() + FULL_SECONDS

    def retire(self, slot: Slot, reason: str) -> None:
        """The box gets no new session, for a reason such as `dirty`; it ends with its last one."""
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
            # Boxes that are being started or ended still need the engine.
            self._changed.wait_for(
                lambda: not self._starting and not self._ending, timeout=CLOSE_SECONDS
            )
            slots = self._slots
            self._slots = []
        for slot in slots:
            slot.box.end("the sandbox was closed")

    def cpu_seconds(self) -> float:
        """Processor time inside of all boxes, those that were retired included; waits for those that are just ending."""
        with self._changed:
            self._changed.wait_for(lambda: not self._ending, timeout=CLOSE_SECONDS)
        return self._ended_cpu_seconds + sum(box.usage().cpu_seconds for box in self.boxes)

    @property
    def boxes(self) -> list[Box]:
        """The boxes that are there now."""
        with self._changed:
            return [slot.box for slot in self._slots]

    # --- all below with the lock held, but for what a creator does ---

    def _check_open(self) -> None:
        if self._closed:
            raise UsageError("this sandbox is closed; open another one with open_sandbox()")
        if self._trouble and not self.has_worked:
            trouble = self._trouble
            self._trouble = None
            raise trouble

    def _best(self) -> Slot | None:
        """The fullest box that has room, so that others can end; lost ones go."""
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
            # A lost box wakes nobody, and a pause or a full box ends by itself.
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
        """Starts as many creators as there are boxes missing."""
        if self._closed or time.monotonic() < self._not_before:
            return
        usable = [slot for slot in self._slots if not slot.leaving and slot.box.lost is None]
        spare = (
            self._rules.ready
            if self._alone and self.has_worked
            else int(self.has_worked and not usable)
        )
        room = (
            sum(self._sessions - slot.sessions for slot in usable) + self._starting * self._sessions
        )
        missing = math.ceil((self._waiting + spare - room) / self._sessions)
        # Boxes that only wait for their last sessions may be replaced before they have gone, as many as there are others.
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
        except Exception as error:  # never leave those who wait without an answer
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
            # Ending a container takes a tenth of a second, which no session should wait for.
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
            return  # lost, which the next lease sees
        self._statistics.count("memory/looks")
        if grown > self._rules.recycle.growth_mb * 2**20:
            self.retire(slot, "memory")
