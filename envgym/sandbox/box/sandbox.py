"""Sandbox with a pool of boxes. Each opened session is checked to have the expected start state."""

from __future__ import annotations

import dataclasses
import itertools
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from envgym.errors import PrerequisiteError, WorldFailure
from envgym.sandbox import App, Isolation
from envgym.sandbox.agent.tables import Images
from envgym.sandbox.box.channel import Box, BoxSession, Transport
from envgym.sandbox.box.checks import CheckRunner, random_user
from envgym.sandbox.box.pool import Pool, Slot
from envgym.sandbox.openapi.documents import documents_of
from envgym.sandbox.options import SandboxOptions
from envgym.sandbox.statistics import Statistics

KNOWN_STATES = 4096
LOOK_EVERY = 16
"""Sessions between two measurements of the memory per session."""


class PooledSandbox:
    """Sandbox with a pool of boxes that start when they are first used.

    Args:
        start: Returns the transport of a newly started agent.
        root: Folder of the app as the agent sees it.
        within: Isolation of sessions inside a box; a second barrier with isolation `container`.
        label: Description of the isolation for users.
        start_check: Returns the transport of an agent in a new box for a hidden test. By default
            `start`.
        check_hello: Fields of its first message, see `CheckRunner`. By default programs run under a
            random user id.
    """

    def __init__(
        self,
        app: App,
        start: Callable[[], Transport],
        *,
        root: str,
        options: SandboxOptions,
        within: Isolation,
        label: str,
        start_check: Callable[[], Transport] | None = None,
        check_hello: Mapping[str, Any] | None = None,
    ):
        self.label = label
        self._options = options
        self._hello = {
            "root": root,
            "tools": list(app.tools),
            "schema": app.schema,
            "seed": app.seed,
            "files": app.files,
            "servers": [dataclasses.asdict(server) for server in app.servers],
            "watch": list(app.watch),
            "isolation": within,
            "output_bytes": options.output_bytes,
            "open_files": options.max_open_files,
            "documents": documents_of(app),
            "session": {
                "tmpfs_mb": options.tmpfs_mb,
                "processes": options.max_processes // 2,
                "network": options.network != "none",
            },
            "is_single": options.level == "container",
        }
        self._start = start
        self._start_check = start_check or start
        self._check_hello = check_hello or {
            "users": [random_user()],
            "place": None,
            "is_open": bool(options.accept_risk),
        }
        self._names = itertools.count(1)
        self._set_up()

    def _set_up(self) -> None:
        self._process, self._lock = os.getpid(), threading.Lock()
        self.statistics = Statistics()
        self._states: OrderedDict[int, str] = OrderedDict()
        self._images = Images[str]()
        self.checks = CheckRunner(
            self._start_check,
            self._check_hello,
            timeout_seconds=self._options.open_timeout_seconds,
            statistics=self.statistics,
        )
        self.pool = Pool(self._new_box, self._options, self.statistics)

    def _after_fork(self) -> None:
        """Replace other resources that a backend must not share with its parent process."""

    def describe(self) -> list[dict]:
        self._belong_to_this_process()
        return self.pool.any_box(timeout_seconds=self._options.open_timeout_seconds).tools

    def tables(self, seed: int) -> dict[str, list[dict[str, Any]]]:
        """Return no tables: the app's schema and seed function define all of them."""
        return {}

    def open(self, *, seed: int, timeout_seconds: float) -> BoxSession:
        self._belong_to_this_process()
        number = next(self._names)
        started = time.perf_counter()
        name = f"s{number}"
        full: WorldFailure | None = None
        while True:
            slot = self._lease(timeout_seconds - (time.perf_counter() - started), full)
            leased = time.perf_counter()
            try:
                state_hash = slot.box.request(
                    "open",
                    stage="open",
                    timeout_seconds=timeout_seconds,
                    session=name,
                    seed=seed,
                    **self._known_image(seed),
                )
                self._prove_state(slot, seed, state_hash)
                self._keep_image(slot, seed, timeout_seconds)
            except BaseException as failure:
                slot.box.tell("close", session=name)
                self.pool.release(slot)
                if not isinstance(failure, WorldFailure):
                    raise
                self.statistics.count(f"failures/{failure.kind}")
                if failure.kind != "sandbox_full":
                    raise
                full = failure
                self.pool.is_full(slot)  # Another box may have room, or this one soon.
                continue
            self.statistics.time("reset", time.perf_counter() - leased)
            self.statistics.time("open", time.perf_counter() - started)
            if number % LOOK_EVERY == 0:
                self.pool.look_at_sessions()
            release = partial(self.pool.release, slot)
            return BoxSession(
                slot.box,
                name,
                state_hash,
                statistics=self.statistics,
                check=self.checks.run,
                on_close=release,
            )

    def _lease(self, timeout_seconds: float, full: WorldFailure | None) -> Slot:
        """Lease a box with room. At the deadline raise `full` if a box was full."""
        try:
            return self.pool.lease(timeout_seconds=timeout_seconds)
        except WorldFailure as failure:
            self.statistics.count(f"failures/{failure.kind}")
            raise full or failure from None

    def close(self) -> None:
        if self._process == os.getpid():
            self.pool.close()
        else:  # The boxes belong to the parent process.
            self._set_up()
            self.pool.close()

    def _known_image(self, seed: int) -> dict[str, str]:
        """Return the cached state for a box, so that group members do not build it again."""
        with self._lock:
            image = self._images.get(seed)
        return {"image": image} if image else {}

    def _keep_image(self, slot: Slot, seed: int, timeout_seconds: float) -> None:
        """Cache the state that a fresh single-session box has built, before any tool runs in it."""
        if not self._hello["is_single"] or self._known_image(seed):
            return
        if image := slot.box.request(
            "image", stage="open", timeout_seconds=timeout_seconds, seed=seed
        ):
            with self._lock:
                self._images.put(seed, image)

    def _prove_state(self, slot: Slot, seed: int, state_hash: str) -> None:
        with self._lock:
            known = self._states.setdefault(seed, state_hash)
            if len(self._states) > KNOWN_STATES:
                self._states.popitem(last=False)
        if known != state_hash:
            self.pool.retire(slot, "dirty")
            why = "a box is not clean, or the seed function depends on more than its seed"
            raise WorldFailure(
                "state_differs",
                f"seed {seed} gave state {state_hash} after {known}: {why}",
                stage="open",
            )

    def _belong_to_this_process(self) -> None:
        # After a fork, the boxes, threads and maybe a held lock belong to the parent.
        if self._process != os.getpid():
            self._set_up()
            self._after_fork()

    def _new_box(self) -> Box:
        try:
            return Box(
                self._start(),
                self._hello,
                timeout_seconds=self._options.open_timeout_seconds,
                statistics=self.statistics,
            )
        except WorldFailure as failure:
            if self.pool.has_worked:
                raise
            raise PrerequisiteError(
                f"the sandbox does not start ({self.label}): {failure.message}"
            ) from None
