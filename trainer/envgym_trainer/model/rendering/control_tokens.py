"""Control tokens of a tokenizer, and texts that spell them.

A control token is an added token, special or not: the tokenizer turns its spelling into one id.
Contents of a conversation must not contain such ids, or a tool result could end its own turn and
open another. Before rendering, each spelling in a content is replaced by a character that occurs
nowhere in the conversation; after rendering, it becomes text again and is encoded as text.
Added tokens of white space only are not control tokens.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from envgym.errors import UsageError

_PRIVATE = (range(0xE000, 0xF900), range(0xF0000, 0xFFFFE), range(0x100000, 0x10FFFE))
"""Code points of the private use areas."""


class ControlTokens:
    """Encoder of one tokenizer that separates control tokens from their spelling in texts.

    Args:
        tokenizer: Hugging Face tokenizer. Calls are not synchronized here.
    """

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer
        added = {
            token: index
            for token, index in tokenizer.get_added_vocab().items()
            if token.strip(" ▁\t\r\n")
        }
        self.ids: Mapping[str, int] = added
        """Id of each control token by its spelling."""
        self.special: frozenset[str] = frozenset(tokenizer.all_special_tokens) | frozenset(
            str(token) for token in tokenizer.added_tokens_decoder.values() if token.special
        )
        """Spellings that the tokenizer marks as special."""
        self._all_ids = frozenset(added.values())
        longest = sorted(added, key=len, reverse=True)
        self.pattern = re.compile("|".join(map(re.escape, longest)) or r"(?!)")
        """Pattern of any control token's spelling."""
        self._plain = _without_added_tokens(tokenizer)
        self._folds = _is_folded(tokenizer)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a rendering, whose control tokens become ids."""
        return self._tokenizer(text, add_special_tokens=False, split_special_tokens=False)[
            "input_ids"
        ]

    def encode_text(self, text: str) -> list[int]:
        """Return the ids of a content. No id of a control token is among them."""
        if self._plain is not None and (
            self._folds or any(token not in self.special for token in self.pattern.findall(text))
        ):
            ids = self._plain.encode(text, add_special_tokens=False).ids
        else:
            ids = self._tokenizer(text, add_special_tokens=False, split_special_tokens=True)[
                "input_ids"
            ]
        if self._all_ids.isdisjoint(ids):
            return ids
        return self._encode_pieces(text)

    def _encode_pieces(self, text: str) -> list[int]:
        """Encode a text whose spelled tokens are in the tokenizer's own vocabulary, in pieces."""
        ids: list[int] = []
        for piece in _pieces(self.pattern, text):
            found = self._tokenizer(piece, add_special_tokens=False, split_special_tokens=True)
            if self._all_ids.isdisjoint(found["input_ids"]):
                ids += found["input_ids"]
            elif len(piece) > 1:
                half = len(piece) // 2
                ids += self._encode_pieces(piece[:half]) + self._encode_pieces(piece[half:])
            else:
                raise UsageError(
                    f"the tokenizer has a control token for the single character {piece!r}, so "
                    "texts cannot be told from control tokens. Use another model."
                )
        return ids

    def spellings(self, text: str) -> list[str]:
        """Return the parts of a content that the tokenizer would turn into control tokens."""
        found = self.pattern.findall(text)
        if not self._folds or not text:
            return found
        # A normalizer may turn other characters into the spelling of a token.
        coded = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        spans = zip(coded["input_ids"], coded["offset_mapping"], strict=True)
        return found + [text[start:end] for index, (start, end) in spans if index in self._all_ids]


class Masks:
    """Replacement of spelled control tokens in all contents of one rendering.

    Args:
        tokens: Control tokens of the tokenizer.
        values: All contents: texts, and lists and dicts of them.
    """

    def __init__(self, tokens: ControlTokens, values: Iterable[Any]):
        self._tokens = tokens
        texts = list(dict.fromkeys(chain.from_iterable(map(_texts, values))))
        spelled = dict.fromkeys(part for text in texts for part in tokens.spellings(text) if part)
        used = {char for text in texts for char in text if char >= "\ue000"} if spelled else set()
        free = (chr(code) for code in chain(*_PRIVATE) if chr(code) not in used)
        try:
            self._mask_of = {part: next(free) for part in spelled}
        except RuntimeError as error:
            raise _no_characters() from error
        except StopIteration as error:
            raise _no_characters() from error
        longest = sorted(self._mask_of, key=len, reverse=True)
        self._spelled = re.compile("|".join(map(re.escape, longest))) if longest else None
        self._text_of = {mask: part for part, mask in self._mask_of.items()}
        # A template may write JSON with escapes.
        escaped = {json.dumps(mask)[1:-1]: part for part, mask in self._mask_of.items()}
        self._text_of |= escaped
        masks = sorted(self._text_of, key=len, reverse=True)
        self._masks = re.compile("|".join(map(re.escape, masks))) if masks else None

    def hide(self, value: Any) -> Any:
        """Return a content without spelled control tokens."""
        if self._spelled is None:
            return value
        if isinstance(value, str):
            return self._spelled.sub(lambda found: self._mask_of[found[0]], value)
        if isinstance(value, Mapping):
            return {self.hide(key): self.hide(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.hide(item) for item in value]
        return value

    def show(self, text: str) -> str:
        """Return a rendering with the spellings in place of their masks."""
        return text if self._masks is None else self._masks.sub(lambda m: self._text_of[m[0]], text)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a rendering. Its own control tokens become ids, spelled ones do not."""
        if self._masks is None or not self._masks.search(text):
            return self._tokens.encode(text)
        ids: list[int] = []
        start = 0
        # A stretch between two control tokens is encoded as one text.
        for end, after in [
            *(found.span() for found in self._tokens.pattern.finditer(text)),
            (len(text), len(text)),
        ]:
            stretch = text[start:end]
            if self._masks.search(stretch):
                ids += self._tokens.encode_text(self.show(stretch))
            elif stretch:
                ids += self._tokens.encode(stretch)
            if after > end:
                ids.append(self._tokens.ids[text[end:after]])
            start = after
        return ids


def _no_characters() -> UsageError:
    return UsageError("the conversation uses every private character of Unicode.")


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _texts(key)
            yield from _texts(item)
    elif isinstance(value, Sequence):
        for item in value:
            yield from _texts(item)


def _pieces(pattern: re.Pattern[str], text: str) -> Iterator[str]:
    """Yield parts of a text, such that each spelled token is cut after its first character."""
    start = 0
    for found in pattern.finditer(text):
        yield text[start : found.start() + 1]
        start = found.start() + 1
    yield text[start:]


def _without_added_tokens(tokenizer: Any) -> Any:
    """Return the tokenizer's backend without added tokens, or None if it has no such backend."""
    from tokenizers import Tokenizer

    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    plain = json.loads(backend.to_str())
    plain["added_tokens"] = []
    plain["post_processor"] = None
    try:
        return Tokenizer.from_str(json.dumps(plain))
    except Exception:  # the backend has no class of errors; such a model needs its added tokens
        return None


def _is_folded(tokenizer: Any) -> bool:
    """Return whether another text than a token's spelling can become that token."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return False
    plain = json.loads(backend.to_str())
    return plain.get("normalizer") is not None and any(
        token["normalized"] for token in plain["added_tokens"]
    )
