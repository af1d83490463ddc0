"""Find a secret in a text, however the text writes it.

A text is *folded*: escapes of JSON, Python, URLs and HTML are decoded, and line breaks, spaces,
backslashes and doubled quotes are dropped. The folded secret, and its folded base64 and hexadecimal
forms, are then searched as plain substrings, so that mixed and nested encodings are found too. Not
found: encrypted, compressed or reversed values.
"""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Callable, Collection, Iterator
from urllib.parse import quote, quote_plus

LEAST = 6
"""Minimum length of a value that can be hidden. A shorter one would match ordinary words."""
LEAST_NEEDLE = 4
"""Minimum length of a folded form. It is lower, because folding drops characters."""

_UNIT = re.compile(
    r"""(?P<percent>(?:%(?:25)*[0-9A-Fa-f]{2})+)
      | (?P<code>(?:\\+u[0-9A-Fa-f]{4})+ | \\+U[0-9A-Fa-f]{8} | \\+u\{[0-9A-Fa-f]{1,6}\})
      | (?P<byte>(?:\\+x[0-9A-Fa-f]{2})+)
      | (?P<entity>&(?:amp;)*(?:[a-z]{2,6}|\#[0-9]{1,7}|\#[xX][0-9A-Fa-f]{1,6});)
      | (?P<quotes>"+|'+)
      | (?P<control>\\+[ab0e])
      | (?P<dropped>\\+[nrtfv]? | [\s\u200b\ufeff]+)""",
    re.VERBOSE,
)
_DROPPED = re.compile(r"""[\s\\\u200b\ufeff]+|(?<=(["']))\1+""")
_SPACE = re.compile(r"(?P<dropped>[\s\u200b\ufeff]+)")
_CONTROLS = {"a": "\a", "b": "\b", "0": "\0", "e": "\x1b"}


def fold(text: str) -> str:
    """Return the text with escapes decoded, and without white space and backslashes."""
    return _UNIT.sub(_decoded, text)


def _decoded(match: re.Match[str]) -> str:
    found = match[0]
    kind = match.lastgroup
    if kind == "percent":
        pairs = re.findall(r"%(?:25)*([0-9A-Fa-f]{2})", found)
        text = bytes.fromhex("".join(pairs)).decode("utf-8", "replace")
    elif kind == "code":
        text = _from_units([int(code, 16) for code in re.findall(r"[uU]\{?([0-9A-Fa-f]+)", found)])
    elif kind == "byte":
        text = bytes.fromhex(re.sub(r"\\+x", "", found)).decode("latin-1")
    elif kind == "entity":
        text = html.unescape(found.replace("&amp;", "&"))
        if text == found:  # no entity of HTML, such as `&a;`
            return found
    elif kind == "control":
        return _CONTROLS[found[-1]]
    else:
        return found[0] if kind == "quotes" else ""
    return _DROPPED.sub("", text)


def _from_units(codes: list[int]) -> str:
    """Return the text of code points, in which surrogate pairs are joined."""
    text = "".join(chr(code) for code in codes if code < 0x110000)
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def find(text: str, needles: Collection[str]) -> Iterator[tuple[int, int, str]]:
    """Yield start, end and needle of each place of a text that folds to a needle.

    The text is also searched with white space removed only, because a character before the secret
    may look like the beginning of an escape.
    """
    for units in (_UNIT, _SPACE):
        folded = units.sub(_decoded, text)
        present = [needle for needle in needles if needle in folded]
        starts, ends = _places(text, units) if present else ([], [])
        for needle in present:
            at = folded.find(needle)
            while at >= 0:
                yield starts[at], ends[at + len(needle) - 1], needle
                at = folded.find(needle, at + 1)


def _places(text: str, units: re.Pattern[str]) -> tuple[list[int], list[int]]:
    """Return start and end in the text of each character of the folded text."""
    starts: list[int] = []
    ends: list[int] = []
    at = 0
    for match in units.finditer(text):
        starts += range(at, match.start())
        ends += range(at + 1, match.start() + 1)
        size = len(_decoded(match))
        starts += [match.start()] * size
        ends += [match.end()] * size
        at = match.end()
    starts += range(at, len(text))
    ends += range(at + 1, len(text) + 1)
    return starts, ends


def needles_of(value: str) -> set[str]:
    """Return the folded forms in which a secret may appear, without forms that are too short."""
    spellings = spellings_of(value)
    forms = {fold(text) for text in spellings} | {_SPACE.sub("", text) for text in spellings}
    return {form for form in forms if len(form) >= LEAST_NEEDLE}


def spellings_of(value: str) -> set[str]:
    """Return the secret, and its exact spellings in one encoding or in two nested ones.

    Besides folded forms they find a value of which folding leaves too little, and one whose first
    character would be read as a part of an escape that begins before it.
    """
    found = {value, *(encode(value) for encode in _TEXTS)}
    found |= {encode(text) for encode in _TEXTS for text in found}
    for data in {value.encode("utf-8", "surrogatepass"), *_latin(value)}:
        found |= {*base64_cores(data), data.hex(), data.hex().upper(), repr(data)[2:-1]}
    return found


def base64_cores(data: bytes) -> set[str]:
    """Return the characters of base64 that depend on `data` alone, wherever it lies in the input.

    The input may begin before the data, as in `user:password`. So there are three alignments.
    """
    cores = set()
    for offset in range(3):
        bits = 8 * offset
        encoded = base64.b64encode(b"\0" * offset + data + b"\0\0\0").decode()
        core = encoded[-(-bits // 6) : (bits + 8 * len(data)) // 6]
        cores |= {core, core.replace("+", "-").replace("/", "_")}
    return cores


def _latin(value: str) -> set[bytes]:
    """Return the value in the encoding of HTTP headers, if it has one."""
    try:
        return {value.encode("latin-1")}
    except UnicodeEncodeError:
        return set()


def _json(text: str) -> str:
    return json.dumps(text)[1:-1]


def _json_unicode(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _python(text: str) -> str:
    return repr(text)[1:-1]


def _percent(text: str) -> str:
    return quote(text, safe="", errors="replace")


def _percent_lower(text: str) -> str:
    return re.sub("%[0-9A-F]{2}", lambda pair: pair[0].lower(), _percent(text))


def _form(text: str) -> str:
    return quote_plus(text, errors="replace")


_TEXTS: tuple[Callable[[str], str], ...] = (
    _json,
    _json_unicode,
    _python,
    _percent,
    _percent_lower,
    _form,
    html.escape,
)
"""Encodings of a text as a text. They may be nested, such as JSON inside of a URL."""
