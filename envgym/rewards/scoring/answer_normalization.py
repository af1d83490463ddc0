r"""Reads the answer out of a text, and tells which spellings of an answer mean the same.

A *reading* is a function from an answer to its canonical form; two answers are the same where their forms are equal. So
being the same is transitive by construction, whatever the reading, and a vote does not depend on the order of comparisons.

    raw        to the letter, white space included: what the reference implementation counts
    value_of   numbers by their exact value, other answers without regard to case, spacing and LaTeX dress
    claims_of  statements in any order: "Ann is a knight, and Bob is a knave." is "bob is a knave, ann is a knight"

Left out: algebra. "2x" and "x*2" are two answers; give a reading of your own where they must be one.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Hashable
from fractions import Fraction

from envgym.errors import UsageError, did_you_mean

Reading = Callable[[str], Hashable]
"""Answer -> canonical form."""

MAX_NUMBER = 200
"""Characters. What is longer is compared as text, so that no answer costs more to read than it did to write."""

_BOX = re.compile(r"\\boxed\s*\{")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)  # an escaped brace is a character of the answer

# Exponents of three digits at most: 1e999999999 would be a number of a gigabyte.
_UNSIGNED = r"(?:(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]*)?|\.[0-9]+)(?:e[+-]?[0-9]{1,3})?"
_BASED = r"0(?:x[0-9a-f]+|o[0-7]+|b[01]+)"
_NUMBER = re.compile(rf"([+-]?)\s*(?:({_BASED})|({_UNSIGNED})(?:\s*/\s*({_UNSIGNED}))?)\s*(%?)")
_FRACTION = re.compile(
    rf"([+-]?)\s*\\[dt]?frac\s*(?:\{{\s*({_UNSIGNED})\s*\}}|([0-9]))\s*(?:\{{\s*({_UNSIGNED})\s*\}}|([0-9]))"
)
_NUMBER_IN_TEXT = re.compile(
    rf"(?:(?<![\w.)])[+-])?(?<!\w)(?:{_BASED}|{_UNSIGNED}(?:/{_UNSIGNED})?)%?", re.IGNORECASE
)

_DRESS = re.compile(r"\\(?:left|right)(?![a-z])|\\[!,;:]|\\?\$")
_WRAPPED = re.compile(r"\\(?:text|textbf|textrm|mathrm|mathbf)\s*\{([^{}]*)\}")


def extract_boxed(text: str) -> str | None:
    r"""What stands in the last `\boxed{...}`, to the letter; None without a box, or where the last one is not closed.

    Braces nest; escaped ones (`\{`) are plain characters. Of a box in a box, the inner one is the last.
    Source: SRT, arXiv 2505.21444, whose labels are the raw strings of the last box.
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
    """The last number of a text, as it stands there; None without one. In `3-4` it is 4: that minus is no sign."""
    found = _NUMBER_IN_TEXT.findall(_one_minus(text))
    return found[-1] if found else None


def raw(answer: str) -> str:
    """The answer to the letter."""
    return answer


@functools.lru_cache(maxsize=4096)
def value_of(answer: str) -> Fraction | str:
    r"""A number as its exact rational value, anything else as a tidied text.

    Numbers: `42`, `-3`, `1,000`, `.5`, `1e3`, `1/2`, `\frac{1}{2}`, `\frac12`, `50%` (which is 1/2), `0x1F`, `0b101`. Nothing is
    rounded: 0.333 is not 1/3. A division by zero, NaN and infinity are texts.
    Texts: case, spacing, `$`, `\text{}`, `\left`, `\right` and a last full stop do not count.
    """
    plain = _plain(answer)
    number = _number(plain) if len(plain) <= MAX_NUMBER else None
    return _tight(plain) if number is None else number


def claims_of(answer: str) -> frozenset[str]:
    """The statements of an answer, parted by commas, semicolons, line ends and `and`; articles inside them do not count."""
    claims = (" ".join(claim.split()) for claim in re.split(r"[,;\n]|\band\b", _plain(answer)))
    spoken = (re.sub(r"(?<=\w) (?:a|an|the)(?= )", "", claim).strip(" .") for claim in claims)
    return frozenset(claim for claim in spoken if claim)


READINGS: dict[str, Reading] = {"value": value_of, "claims": claims_of, "raw": raw}
"""By the name that a task's `extra["reading"]` gives."""


def find_reading(name: str) -> Reading:
    """The reading of that name. Raises UsageError."""
    if name not in READINGS:
        raise UsageError(
            f"no reading '{name}'{did_you_mean(name, READINGS)}; available: {', '.join(READINGS)}"
        )
    return READINGS[name]


def _one_minus(text: str) -> str:
    return text.replace("\N{MINUS SIGN}", "-").replace("\N{FRACTION SLASH}", "/")


def _plain(answer: str) -> str:
    """Without LaTeX dress, in lower case."""
    text = _one_minus(answer).replace("{,}", ",").replace(r"\%", "%").replace("\\ ", " ").casefold()
    return _WRAPPED.sub(r"\1", _DRESS.sub("", text)).strip().removesuffix(".").strip()


def _tight(text: str) -> str:
    """Spaces only where they part two words."""
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
