"""Extract the answer from a text and normalize it, so that equivalent answers compare equal.

A normalizer maps an answer to its canonical form; two answers are the same if their forms are
equal. Sameness is therefore transitive, and a vote does not depend on the order of comparisons.

    raw        exact string, as in the reference implementation
    value_of   exact value of numbers; other answers without case, spacing and LaTeX markup
    claims_of  statements in any order: "A is a knight, and B is a knave." equals
               "b is a knave, a is a knight"

Not supported: algebra. "2x" and "x*2" differ; use a custom normalizer if they must be equal.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Hashable
from fractions import Fraction

from envgym.errors import UsageError, did_you_mean

Reading = Callable[[str], Hashable]
"""Normalizer: answer -> canonical form."""

MAX_NUMBER = 200
"""Maximum length of a number in characters. Longer answers are compared as text, which bounds the
cost of parsing."""

_BOX = re.compile(r"\\boxed\s*\{")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)  # an escaped brace is part of the answer

# At most three digits in an exponent: 1e999999999 would need a gigabyte of memory.
_UNSIGNED = r"(?:(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]*)?|\.[0-9]+)(?:e[+-]?[0-9]{1,3})?"
_BASED = r"0(?:x[0-9a-f]+|o[0-7]+|b[01]+)"
_NUMBER = re.compile(rf"([+-]?)\s*(?:({_BASED})|({_UNSIGNED})(?:\s*/\s*({_UNSIGNED}))?)\s*(%?)")
_FRACTION = re.compile(
    rf"([+-]?)\s*\\[dt]?frac\s*(?:\{{\s*({_UNSIGNED})\s*\}}|([0-9]))"
    rf"\s*(?:\{{\s*({_UNSIGNED})\s*\}}|([0-9]))"
)
_NUMBER_IN_TEXT = re.compile(
    rf"(?:(?<![\w.)])[+-])?(?<!\w)(?:{_BASED}|{_UNSIGNED}(?:/{_UNSIGNED})?)%?", re.IGNORECASE
)

_DRESS = re.compile(r"\\(?:left|right)(?![a-z])|\\[!,;:]|\\?\$")
_WRAPPED = re.compile(r"\\(?:text|textbf|textrm|mathrm|mathbf)\s*\{([^{}]*)\}")


def extract_boxed(text: str) -> str | None:
    r"""Return the content of the last `\boxed{...}`, unchanged.

    Braces nest; escaped braces (`\{`) are plain characters. For nested boxes, the inner one is the
    last.

    Returns:
        Content of the box, or `None` if there is no box or the last one is not closed.

    References:
        SRT, arXiv 2505.21444. Its labels are the raw strings of the last box.
    """
    starts = [box.end() for box in _BOX.finditer(text)]
    if not starts:
        return None
    depth = 1
    for brace in _BRACE.finditer(text, starts[-1]):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0:
            return text[starts[-1] : brace.start()]
    return None


def last_number(text: str) -> str | None:
    """Return the last number of a text as it is written, or `None` if there is no number.

    The minus of a range is not a sign: the last number of `3-4` is 4.
    """
    found = _NUMBER_IN_TEXT.findall(_one_minus(text))
    return found[-1] if found else None


def raw(answer: str) -> str:
    """Return the answer unchanged."""
    return answer


@functools.lru_cache(maxsize=4096)
def value_of(answer: str) -> Fraction | str:
    r"""Return a number as its exact rational value, and any other answer as normalized text.

    Numbers: `42`, `-3`, `1,000`, `.5`, `1e3`, `1/2`, `\frac{1}{2}`, `\frac12`, `50%` (equal to
    1/2), `0x1F`, `0b101`. They are not rounded: 0.333 differs from 1/3. A division by zero, NaN and
    infinity are texts.
    Texts: case, spacing, `$`, `\text{}`, `\left`, `\right` and a final full stop are ignored.
    """
    plain = _plain(answer)
    number = _number(plain) if len(plain) <= MAX_NUMBER else None
    return _tight(plain) if number is None else number


def claims_of(answer: str) -> frozenset[str]:
    """Return the statements of an answer, split at commas, semicolons, line ends and `and`.

    Articles inside a statement are ignored.
    """
    claims = (" ".join(claim.split()) for claim in re.split(r"[,;\n]|\band\b", _plain(answer)))
    spoken = (re.sub(r"(?<=\w) (?:a|an|the)(?= )", "", claim).strip(" .") for claim in claims)
    return frozenset(claim for claim in spoken if claim)


READINGS: dict[str, Reading] = {"value": value_of, "claims": claims_of, "raw": raw}
"""Name in a task's `extra["reading"]` -> normalizer."""


def find_reading(name: str) -> Reading:
    """Return the normalizer with this name.

    Raises:
        UsageError: If the name is unknown.
    """
    if name not in READINGS:
        raise UsageError(
            f"unknown answer normalization '{name}'{did_you_mean(name, READINGS)}; "
            f"available: {', '.join(READINGS)}"
        )
    return READINGS[name]


def _one_minus(text: str) -> str:
    return text.replace("\N{MINUS SIGN}", "-").replace("\N{FRACTION SLASH}", "/")


def _plain(answer: str) -> str:
    """Return the answer in lower case without LaTeX markup."""
    text = _one_minus(answer).replace("{,}", ",").replace(r"\%", "%").replace("\\ ", " ").casefold()
    return _WRAPPED.sub(r"\1", _DRESS.sub("", text)).strip().removesuffix(".").strip()


def _tight(text: str) -> str:
    """Remove spaces except between two words."""
    return re.sub(r"\s*([^\w\s])\s*", r"\1", " ".join(text.split()))


def _number(text: str) -> Fraction | None:
    if fraction := _FRACTION.fullmatch(text):
        sign, over, digit, under, other = fraction.groups()
        text = f"{sign}{over or digit}/{under or other}"
    found = _NUMBER.fullmatch(text)
    if found is None:
        return None
    sign, based, over, under, percent = found.groups()
    try:
        value = Fraction(int(based, 0)) if based else _decimal(over) / _decimal(under or "1")
    except ZeroDivisionError:
        return None
    return value * (-1 if sign == "-" else 1) / (100 if percent else 1)


def _decimal(digits: str) -> Fraction:
    return Fraction(digits.replace(",", ""))
