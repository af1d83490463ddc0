"""Secrets of this process, and their removal from everything that is written or shown.

A value is *hidden* once (`hide`): each variable that `env:NAME` names, each literal secret of a
YAML, each key that is sent to a server. From then on `redact` replaces it, in every encoding that
`encodings.py` finds. Not hidden: values shorter than six characters, which would remove ordinary
words from records.

The set of hidden values belongs to the process, as its environment variables and its log do: a
message may be written by code that has never seen the setting.
"""

from __future__ import annotations

import base64
import binascii
import json
import logging
import re
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from envgym.secrets.encodings import LEAST, find, needles_of, spellings_of
from envgym.secrets.names import is_secret_name

__all__ = ["FILTER", "LEAST", "forget", "get_logger", "hide", "redact", "redacted"]

_FIELD = re.compile(r"[a-z_]+")
HIDDEN = "[hidden]"
"""Placeholder of a secret that has no name."""


class _Hidden:
    """Hidden values, and what to search -> its placeholder. Readers need no lock."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.values: frozenset[str] = frozenset()
        self.needles: dict[str, str] = {}
        self.spellings: dict[str, str] = {}

    def add(self, value: str, shown: str) -> None:
        spellings, needles = spellings_of(value), needles_of(value)
        shown = shown if not any(each in shown for each in spellings | needles) else "***"
        with self.lock:
            self.values = self.values | {value}
            self.needles = dict.fromkeys(needles, shown) | self.needles
            spelled = dict.fromkeys(spellings, shown) | self.spellings
            self.spellings = {each: spelled[each] for each in sorted(spelled, key=len)[::-1]}


_hidden = _Hidden()


def hide(value: str, name: str = "") -> None:
    """Hide a value from now on.

    Args:
        value: The secret. A value shorter than `LEAST` characters is ignored.
        name: Name of the environment variable that holds it, for the placeholder `[env:NAME]`.
    """
    shown = f"[env:{name}]" if name else HIDDEN
    for part in _parts(value):
        if part not in _hidden.values:
            _hidden.add(part, shown)


def forget() -> None:
    """Forget all hidden values. For tests."""
    _hidden.values, _hidden.needles, _hidden.spellings = frozenset(), {}, {}


def redact(text: str) -> str:
    """Return a text with every hidden value replaced by its placeholder."""
    if not _hidden.values:
        return text
    for spelling, shown in _hidden.spellings.items():  # the longest one first
        text = text.replace(spelling, shown)
    needles = _hidden.needles
    spans = sorted(find(text, needles), key=lambda span: (span[0], -span[1]))
    if not spans:
        return text
    pieces = []
    at = 0
    for start, end, needle in spans:
        if start >= at:
            pieces += [text[at:start], needles[needle]]
        at = max(at, end)
    return "".join([*pieces, text[at:]])


def redacted(data: Any) -> Any:
    """Return plain data (mappings, lists, tuples) with every text in it redacted.

    Keys are redacted too, except words of lower-case letters, such as the names of fields.
    """
    if not _hidden.values:
        return data
    if isinstance(data, str):
        return redact(data)
    if isinstance(data, Mapping):
        return {
            redact(key) if isinstance(key, str) and not _FIELD.fullmatch(key) else key: redacted(
                value
            )
            for key, value in data.items()
        }
    if isinstance(data, list | tuple):
        return type(data)(map(redacted, data)) if type(data) in (list, tuple) else data
    return data


class RedactingFilter(logging.Filter):
    """Filter that redacts the message and the traceback of each log record."""

    def filter(self, record: logging.LogRecord) -> bool:
        if _hidden.values:
            record.msg = redact(record.getMessage())
            record.args = None
            if record.exc_info and not record.exc_text:
                record.exc_text = logging.Formatter().formatException(record.exc_info)
            record.exc_text = redact(record.exc_text) if record.exc_text else None
        return True


FILTER = RedactingFilter()
"""The filter of all loggers of envgym."""


def get_logger(name: str) -> logging.Logger:
    """Return the logger of a module, whose records contain no secret."""
    logger = logging.getLogger(name)
    logger.addFilter(FILTER)
    return logger


def _parts(value: str) -> set[str]:
    """Return a secret and the parts of it that are secrets alone."""
    found = {value, value.strip()}
    lines = value.splitlines()
    if len(lines) > 1:
        found |= {line.strip() for line in lines}
    if match := re.fullmatch(r"(?i)(?:bearer|token|basic|apikey)\s+(\S+)", value.strip()):
        found |= {match[1], *_basic(match[1])}
    with suppress(ValueError):
        found |= _of_url(value.strip())
    with suppress(ValueError, RecursionError):
        found |= _of_json(json.loads(value), is_secret=False)
    return {part for part in found if len(part) >= LEAST}


def _basic(text: str) -> set[str]:
    """Return the password of the credentials `user:password` in base64, if the text is that."""
    with suppress(binascii.Error, UnicodeDecodeError):
        decoded = base64.b64decode(text, validate=True).decode()
        return {decoded.partition(":")[2]} if ":" in decoded else set()
    return set()


def _of_url(text: str) -> set[str]:
    """Return the secrets of a URL: the password, and query parameters with a secret's name."""
    if "://" not in text:
        return set()
    url = urlsplit(text)
    secret = url.password or (url.username if "@" in url.netloc else None) or ""
    query = {value for name, value in parse_qsl(url.query) if is_secret_name(name)}
    return {secret, unquote(secret), *query}


def _of_json(data: Any, *, is_secret: bool) -> set[str]:
    """Return the texts of a JSON value whose key has a secret's name."""
    if isinstance(data, dict):
        return set().union(
            *(_of_json(value, is_secret=is_secret_name(str(key))) for key, value in data.items())
        )
    if isinstance(data, list):
        return set().union(*(_of_json(each, is_secret=is_secret) for each in data))
    return _parts(data) if is_secret and isinstance(data, str) else set()
