"""Graceful stop: the first Ctrl-C stops the run at the next safe point, the second one at once."""

from __future__ import annotations

import signal
import threading


class StopRequested(KeyboardInterrupt):
    """Exception raised by the first Ctrl-C at a safe point, when the run can be saved."""


class GracefulStop:
    """Handler of SIGINT and SIGTERM in a `with` block. It does nothing outside the main thread."""

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> GracefulStop:
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
        """Raise StopRequested if a stop was requested. Call it at safe points."""
        if self.asked:
            raise StopRequested

    def _ask(self, number: int, frame: object) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        print("\nstopping after this step and saving; press Ctrl-C again to stop now", flush=True)
