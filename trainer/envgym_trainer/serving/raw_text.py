"""Raw prompts of `/v1/completions` as ids, and the text of single tokens."""

from __future__ import annotations

import copy
import threading
from collections.abc import Sequence

from envgym_trainer.model.chat import Chat


class RawText:
    """Tokenizer of a chat, without its template. Thread-safe.

    Args:
        chat: Chat whose tokenizer is copied.
    """

    def __init__(self, chat: Chat):
        self._tokenizer = copy.deepcopy(chat.tokenizer)
        self._lock = threading.Lock()
        self.vocabulary = len(self._tokenizer)
        """Number of ids of the tokenizer."""

    def encode(self, text: str) -> list[int]:
        """Return the ids of a prompt. Special tokens that it spells are control tokens."""
        with self._lock:
            return list(self._tokenizer(text)["input_ids"])

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids, special tokens included."""
        with self._lock:
            return self._tokenizer.decode(list(ids), clean_up_tokenization_spaces=False)
