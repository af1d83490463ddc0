"""Text of a turn while it is sampled: decode token by token, and find stop strings."""

from __future__ import annotations

from collections.abc import Sequence

from envgym_trainer.model.chat import Chat

INCOMPLETE = "\ufffd"
"""End of a text whose last character needs more tokens."""


class TokenDecoder:
    """Decoder of growing ids. Each character is returned once, as soon as it is complete.

    Only a window of the last ids is decoded again. It begins one returned piece earlier, because
    some tokenizers drop the space before the first id of a text.
    """

    def __init__(self, chat: Chat):
        self._chat = chat
        self._ids: list[int] = []
        self._start = self._returned = 0

    def push(self, token: int) -> str:
        """Return the text that is complete with this token."""
        self._ids.append(token)
        return self._take(is_end=False)

    def finish(self) -> str:
        """Return the rest of the text."""
        return self._take(is_end=True)

    def _take(self, *, is_end: bool) -> str:
        if self._returned == len(self._ids):
            return ""
        known = self._ids[self._start : self._returned]
        before = self._chat.decode(known) if known else ""
        text = self._chat.decode(self._ids[self._start :])
        if len(text) <= len(before) or (text.endswith(INCOMPLETE) and not is_end):
            return ""
        self._start, self._returned = self._returned, len(self._ids)
        return text[len(before) :]


class StopFinder:
    """Search of stop strings in a growing text.

    Args:
        stops: Stop strings. The text ends before the first one that occurs.
    """

    def __init__(self, stops: Sequence[str]):
        self._stops = stops
        self._held = ""
        self.found = False
        """Whether the text has ended."""

    def push(self, piece: str) -> str:
        """Return the text that is certainly before a stop string."""
        if self.found:
            return ""
        text = self._held + piece
        places = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if places:
            self.found = True
            return text[: min(places)]
        kept = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - kept :]
        return text[: len(text) - kept]

    def finish(self) -> str:
        """Return the text that was held back."""
        held, self._held = self._held, ""
        return "" if self.found else held


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest end of the text that a stop string begins with."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
