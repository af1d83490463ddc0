r"""Text at the boundaries of the program: from models, tools, servers and files, and to readers.

On the way in, `clean` replaces what UTF-8 cannot encode by a visible escape and keeps the rest. On
the way out, `visible` shows control and format characters as escapes, `to_json` writes strict JSON,
and `record_form` is the one form in which values enter a record. See `terminal.py` for consoles.

>>> clean("half \ud83d"), visible("\x1b[2Jdone\n"), to_json({"rate": float("inf")})
('half \\ud83d', '\\x1b[2Jdone\n', '{"rate":"Infinity"}')
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any, TypeVar

PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")
LONE = re.compile("[\ud800-\udfff]")
HIDDEN_CATEGORIES = frozenset({"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"})
"""Unicode categories without a glyph: control, format, unassigned, private use, surrogates, line
and paragraph separators."""
DIGITS = "0123456789"
JOINERS = "\u200c\u200d"
"""Format characters that are part of ordinary spelling: Persian words, composed emoji."""
MAX_DEPTH = 100
"""Maximum nesting of a recorded value."""
MAX_INTEGER = 10**4000
"""Larger integers are recorded in hexadecimal digits; Python limits decimal ones to 4300."""

T = TypeVar("T")


def clean(text: str) -> str:
    r"""Return text that UTF-8 can encode.

    Two halves of a surrogate pair become their character. A lone half, also one that stands for an
    undecodable byte, becomes a visible escape such as `\ud83d`. Everything else is kept.
    """
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return LONE.sub(_escape, PAIR.sub(_joined, text))
    return text


def clean_value(value: T) -> T:
    """Return a value with `clean` applied to each text in its dicts, lists, tuples and dataclasses.

    A value without such text is returned itself, not as a copy.
    """
    return _clean_value(value, {})


def content_text(content: Any) -> str:
    """Return the text of a message's content: a string, a list of parts, or nothing.

    Parts without text, such as pictures and reasoning, are left out.

    >>> content_text([{"type": "text", "text": "Done"}, {"type": "text", "text": "."}])
    'Done.'
    """
    if content is None:
        return ""
    if isinstance(content, str):
        return clean(content)
    if isinstance(content, Mapping):
        return content_text(content.get("text")) if _is_text_part(content) else ""
    if isinstance(content, Sequence) and not isinstance(content, bytes | bytearray):
        return "".join(map(content_text, content))
    return to_json(content)


def visible(text: str) -> str:
    r"""Return text that is safe to print.

    Characters without a glyph, newline and tab excepted, become escapes such as `\x1b` or `\u202e`.
    They could move the cursor, hide text or reverse its order.
    """
    if text.replace("\n", "").replace("\t", "").isprintable():
        return text
    return _VISIBLE.text(PAIR.sub(_joined, text.replace("\r\n", "\n")))


def one_line(text: str) -> str:
    """Return printable text without line breaks, for names in tables, bars and messages."""
    return " ".join(visible(text).split())


def natural_key(text: str) -> tuple[tuple[int, int, str], ...]:
    """Return a sort key by which `L2` comes before `L10`."""
    parts = re.findall(r"[0-9]{1,18}|[^0-9]+|[0-9]+", text)
    return tuple((0, int(p), "") if p[0] in DIGITS and len(p) <= 18 else (1, 0, p) for p in parts)


def record_form(value: Any, redact: Callable[[str], str] = str) -> Any:
    """Return a value as it is written into records: strict JSON data with clean, redacted texts.

    Args:
        value: Any value. Numbers that are not finite become their names, such as `Infinity`. Bytes
            become hexadecimal digits, and unknown objects their `str`.
        redact: Function that removes secrets from a text. It is applied to each cleaned text, keys
            included.
    """
    return _record_form(value, redact, 0)


def to_json(value: Any, *, indent: int | None = None) -> str:
    """Return strict JSON in printable characters; without `indent` it is always one line.

    Values that JSON cannot express are written as `record_form` returns them.
    """
    separators = (",", ":") if indent is None else (",", ": ")
    form: dict[str, Any] = {"ensure_ascii": False, "allow_nan": False, "separators": separators}
    try:
        text = json.dumps(value, indent=indent, **form)
    except (ValueError, TypeError, RecursionError):
        text = json.dumps(record_form(value), indent=indent, **form)
    if text.replace("\n", "").isprintable():
        return text
    # A lone surrogate is inside a string here, so its escape needs an escaped backslash.
    return _JSON.text(LONE.sub(lambda half: f"\\{_escape(half)}", PAIR.sub(_joined, text)))


def read_json(data: bytes) -> Any:
    """Parse JSON that another program wrote. Bytes that are no UTF-8 become visible escapes.

    Raises:
        ValueError: If the data is not JSON or too deeply nested.
    """
    try:
        return clean_value(json.loads(data.decode("utf-8-sig", "surrogateescape")))
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None


def _joined(pair: re.Match[str]) -> str:
    return pair[0].encode("utf-16-le", "surrogatepass").decode("utf-16-le")


def _escape(half: re.Match[str]) -> str:
    return f"\\u{ord(half[0]):04x}"


def _is_text_part(part: Mapping[Any, Any]) -> bool:
    return str(part.get("type", "text")) in ("text", "input_text", "output_text")


def _clean_value(value: Any, done: dict[int, Any]) -> Any:
    """Return the clean value. `done` holds the containers that were seen, by their id.

    It keeps the time linear if a container occurs often, and ends at one that contains itself.
    """
    if isinstance(value, str):
        return clean(value)
    is_data = dataclasses.is_dataclass(value) and not isinstance(value, type)
    if not (is_data or isinstance(value, dict | list | tuple)):
        return value
    if id(value) not in done:
        done[id(value)] = value
        done[id(value)] = _clean_fields(value, done) if is_data else _clean_items(value, done)
    return done[id(value)]


def _clean_items(value: Any, done: dict[int, Any]) -> Any:
    old = [*value, *value.values()] if isinstance(value, dict) else list(value)
    new = [_clean_value(item, done) for item in old]
    if all(one is other for one, other in zip(new, old, strict=True)):
        return value
    if isinstance(value, dict):
        return dict(zip(new[: len(value)], new[len(value) :], strict=True))
    if isinstance(value, list):
        return new
    return type(value)(*new) if hasattr(value, "_fields") else tuple(new)


def _clean_fields(value: Any, done: dict[int, Any]) -> Any:
    old = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.init}
    new = {name: _clean_value(item, done) for name, item in old.items()}
    changed = {name: item for name, item in new.items() if item is not old[name]}
    return dataclasses.replace(value, **changed) if changed else value


def _record_form(value: Any, redact: Callable[[str], str], depth: int) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return redact(clean(value))
    if isinstance(value, int):
        return int(value) if abs(value) < MAX_INTEGER else hex(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else _not_finite(value)
    if depth > MAX_DEPTH:
        return f"[nested more than {MAX_DEPTH} levels deep]"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return _record_dict(value, redact, depth)
    if isinstance(value, Sequence | Set) and not isinstance(value, bytes | bytearray):
        return [_record_form(item, redact, depth + 1) for item in value]
    return _record_object(value, redact, depth)


def _record_dict(value: Mapping[Any, Any], redact: Callable[[str], str], depth: int) -> Any:
    plain: dict[str, Any] = {}
    for key, item in value.items():
        name = redact(clean(key if isinstance(key, str) else str(key)))
        # Cleaning and redaction can make two keys equal; both values are kept.
        number = 2
        unique = name
        while unique in plain:
            unique = f"{name} ({number})"
            number += 1
        plain[unique] = _record_form(item, redact, depth + 1)
    return plain


def _record_object(value: Any, redact: Callable[[str], str], depth: int) -> Any:
    """Return the form of bytes, of a NumPy scalar or array, or of an unknown object."""
    if isinstance(value, bytes | bytearray):
        return value.hex()
    as_list = getattr(value, "tolist", None)  # NumPy scalars and arrays, torch tensors
    if callable(as_list) and not isinstance(value, type):
        return _record_form(as_list(), redact, depth + 1)
    try:
        return redact(clean(str(value)))
    except Exception:  # a foreign object may have a broken __str__
        return f"[{type(value).__name__}]"


def _not_finite(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


class _Escapes(dict[int, str]):
    """Translation table of hidden characters, filled for each character when it first occurs."""

    def __init__(self, escape: Callable[[int], str], kept: str):
        super().__init__({ord(character): character for character in kept})
        self._escape = escape

    def __missing__(self, code: int) -> str:
        character = chr(code)
        is_hidden = unicodedata.category(character) in HIDDEN_CATEGORIES
        self[code] = self._escape(code) if is_hidden else character
        return self[code]

    def text(self, text: str) -> str:
        return text.translate(self)


def _shown(code: int) -> str:
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _in_json(code: int) -> str:
    return json.dumps(chr(code))[1:-1] if code != 0x7F else "\\u007f"


_VISIBLE = _Escapes(_shown, "\n\t" + JOINERS)
# JSON escapes newlines inside of strings itself; those that are left separate indented lines.
_JSON = _Escapes(_in_json, "\n" + JOINERS)
