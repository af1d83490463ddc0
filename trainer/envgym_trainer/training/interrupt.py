"""Ctrl-C that loses nothing: the first one asks the run to stop at the next safe point, the second one means now."""

from __future__ import annotations

import signal
import threading


class StopAsked(KeyboardInterrupt):
    """The first Ctrl-C, at a safe point: between two updates, where everything can be saved."""


class Interrupt:
    """Catches SIGINT and SIGTERM while in its `with` block (in the main thread; elsewhere it leaves signals alone)."""

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            self._before = {
                number: signal.signal(number, self._ask)
                for number in (signal.SIGINT, signal.SIGTERM)
            }
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._before = {}

    def check(self) -> None:
        """Raises StopAsked, at a safe point, when one was asked for."""
        if self.asked:
            raise StopAsked

    def _ask(self, number: int, frame: object) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        print("\nstopping after this step and saving; press Ctrl-C again to stop now", flush=True)
