"""Numbers of a text, read as whole tokens with sign, separators, currency and unit.

A number inside a longer token is no number of the text: neither 5 in 5.75, -5, 5/7, 10:45, C5 and
2024-05-01, nor 234 in 1,234. Commas are ambiguous: `101,102,103` is a list or one number, so both
readings are kept. `1 000`, `1'000` and `1.000.000` are numbers with separators.
Not supported: numbers in words, other than a scale such as `5 million`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction

MAX_DIGITS = 100
"""Maximum length of a number in characters. A longer one is read as a code."""

CURRENCIES = {
    "USD": "$ us$ usd dollar dollars",
    "EUR": "€ eur euro euros",
    "GBP": "£ gbp pound pounds",
    "JPY": "¥ jpy yen",
    "CNY": "cny rmb yuan",
    "INR": "₹ inr rupee rupees",
    "CHF": "chf franc francs",
    "CAD": "c$ ca$ cad",
    "AUD": "a$ au$ aud",
    "BRL": "r$ brl",
    "KRW": "₩ krw",
    "RUB": "₽ rub rouble roubles ruble rubles",
    "SEK": "sek",
    "NOK": "nok",
    "DKK": "dkk",
    "PLN": "pln",
}
_CURRENCY = {word: code for code, words in CURRENCIES.items() for word in words.split()}
_PERCENT = {"%", "percent", "pct"}
_SCALES = {
    "hundred": 10**2,
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
}
_SHORT_SCALES = {"k": 10**3, "mn": 10**6, "bn": 10**9}
_MONEY_SCALES = {"m": 10**6, "b": 10**9, "t": 10**12}
"""Letters that mean a scale after an amount of money, and a unit after any other number."""
_UNIT_WORDS = (
    "kg g mg lb lbs oz km m cm mm mi ft in yd h hr hrs min mins s sec secs ms l ml kb mb gb tb kib "
    "mib gib w kw kwh hz khz mhz ghz ° °c °f px pt pcs am pm"
)
_UNITS = frozenset(_UNIT_WORDS.split())
_MONTH_WORDS = (
    "jan feb mar apr jun jul aug sep sept oct nov dec january february march april june july "
    "august september october november december"
)
_MONTHS = frozenset(_MONTH_WORDS.split())

_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
"""Scripts that are written without spaces: Thai, Lao, Burmese, Khmer, Japanese, Chinese."""
_SPLIT = re.compile(r"[\s()\[\]{}<>\"“”„«»|;!?=…—。、，；：（）「」『』【】《》？！・]+")
_SCRIPT_EDGE = re.compile(rf"(?<=[{_UNSPACED}])(?=[\d$€£¥+-])|(?<=[\d%])(?=[{_UNSPACED}])")
_SPACED_GROUPS = re.compile(r"(?<![\w.,+-])(?<!\d )\d{1,3}(?: \d{3})+(?![\w,]| \d)")
_MARKUP = re.compile(r"(?<!\d)[*`~]+|[*`~]+(?!\d)")
_GROUP_MARK = re.compile(r"(?<=\d)[\u00a0\u202f\u2009'’_](?=\d{3}(?!\d))")
_SIGNS = str.maketrans({"\N{MINUS SIGN}": "-", "\N{FRACTION SLASH}": "/"})
_NUMERAL = re.compile(
    r"(?P<grouped>\d{1,3}(?:,\d{3})+|\d{1,2}(?:,\d{2})+,\d{3})(?P<cents>\.\d+)?"
    r"|(?P<european>\d{1,3}(?:\.\d{3})+),(?P<decimals>\d{1,2})"
    r"|(?P<dotted>\d{1,3}(?:\.\d{3}){2,})"
    r"|(?P<plain>\d+(?:\.\d+)?|\.\d+)(?P<exponent>e[+-]?\d{1,2})?"
    r"|(?P<comma>\d+,\d{1,2})"
)
_SYMBOL = "|".join(
    re.escape(word)
    for word in sorted(_CURRENCY, key=len, reverse=True)
    if not word.isalpha() or len(word) == 3
)
_AMOUNT = re.compile(
    rf"(?P<sign>[+\-–]?)(?P<before>{_SYMBOL})?(?P<inner>[+\-–]?)"
    rf"(?P<numeral>{re.sub(r'[?]P<[a-z]+>', '?:', _NUMERAL.pattern)})"
    rf"(?P<after>{_SYMBOL}|%|[a-z°]{{1,4}})?"
)
_EDGE = ",:'’‘&≈~"
"""Punctuation that is no part of a token at its edges."""
_LIST_MARK = re.compile(r"^\s*(\d{1,2})[.)]\s+\S", re.MULTILINE)
_COMPOUND = re.compile(r"([^-]*\d[^-]*)-([^\W\d_]{3,})")
_LABELLED = re.compile(r"([^\W\d_]+):(.+)")


@dataclass(frozen=True, slots=True)
class Quantity:
    """One number of a text."""

    value: Fraction
    unit: str = ""
    """Code of a currency, `%`, or empty. Other units are words of their own."""

    def tells(self, fact: Quantity) -> bool:
        """Return whether this number gives a fact: the same amount, in a unit that fits.

        A currency may be left out or added, and percent may not.
        """
        if self.value != fact.value:
            return False
        if self.unit == fact.unit:
            return True
        return "%" not in (self.unit, fact.unit) and "" in (self.unit, fact.unit)


Token = Quantity | str
"""A number, or a word or code in lower case."""


@dataclass(slots=True)
class Reading:
    """Tokens of a text."""

    tokens: list[Token] = field(default_factory=list)
    """Tokens in order. An ambiguous token has its first reading here."""
    others: list[Quantity] = field(default_factory=list)
    """Numbers of further readings of ambiguous tokens."""
    pairs: list[tuple[Quantity, Quantity]] = field(default_factory=list)
    """Numbers on both sides of a comma, such as `101,102` and `5,75`. They are a list only if both
    are expected."""
    words: int = 0
    """Length of the text in words. A member of a list without spaces is a word, and so are two
    characters of a script that is written without spaces."""

    @property
    def quantities(self) -> list[Quantity]:
        return [token for token in self.tokens if isinstance(token, Quantity)] + self.others


def read(text: str) -> Reading:
    """Return the tokens of a text."""
    reading = Reading()
    for chunk in _chunks(text, reading):
        _read_chunk(chunk, reading)
    reading.tokens = _without_days(_with_units(reading.tokens))
    return reading


def number_of(text: str) -> Quantity | None:
    """Return the number that a whole text is, or `None` if it is something else."""
    tokens = read(text).tokens
    return tokens[0] if len(tokens) == 1 and isinstance(tokens[0], Quantity) else None


def plain(text: str) -> str:
    """Return text in lower case and Unicode normal form C, with ASCII digits and signs."""
    digits = "".join(str(unicodedata.decimal(char)) if char.isdecimal() else char for char in text)
    return unicodedata.normalize("NFC", digits.translate(_SIGNS).casefold())


def is_unspaced(char: str) -> bool:
    """Return whether a character belongs to a script that is written without spaces."""
    return re.match(f"[{_UNSPACED}\U00020000-\U0003ffff]", char) is not None


def _chunks(text: str, reading: Reading) -> Iterator[str]:
    """Yield the tokens between white space and brackets, without punctuation around them."""
    text = plain(text)
    marks = [int(mark) for mark in _LIST_MARK.findall(text)]
    if len(marks) > 1 and marks == list(range(1, len(marks) + 1)):
        text = _LIST_MARK.sub(lambda mark: mark[0][-1], text)
    text = _SPACED_GROUPS.sub(lambda group: _spaced(group[0], reading), text)
    text = _GROUP_MARK.sub(",", text).replace("per cent", "percent")
    text = text.replace("{,}", ",").replace("\\,", ",").replace("\\", "")
    for chunk in _SPLIT.split(_SCRIPT_EDGE.sub(" ", _MARKUP.sub("", text))):
        chunk = chunk.strip(_EDGE).rstrip(".-–").removesuffix("'s").removesuffix("’s")
        chunk = re.sub(r"^[#@№]+|^\.+(?!\d)", "", chunk).strip(_EDGE)
        if chunk.startswith("$") and chunk.count("$") == 2:
            chunk = chunk.strip("$")  # a formula of LaTeX
        if chunk:
            yield chunk


def _spaced(group: str, reading: Reading) -> str:
    """Return `1 000` as `1,000`. Groups of three digits alone stay a list and are a number too."""
    joined = group.replace(" ", "")
    if group.startswith("0"):
        return group
    if len(group.split()[0]) < 3:
        return group.replace(" ", ",")
    reading.others.append(Quantity(Fraction(joined)))
    return group


def _read_chunk(chunk: str, reading: Reading) -> None:
    if len(chunk) > MAX_DIGITS and "," not in chunk and "/" not in chunk:
        _add_code(chunk, reading)
    elif quantities := _amounts(chunk, reading):
        reading.tokens += quantities
        reading.words += 1
    elif labelled := _LABELLED.fullmatch(chunk):
        _add_code(labelled[1], reading)
        _read_chunk(labelled[2], reading)
    elif compound := _COMPOUND.fullmatch(chunk):
        _read_chunk(compound[1], reading)
        _add_code(compound[2], reading)
    elif fraction := _fraction(chunk):
        reading.tokens.append(fraction)
        reading.words += 1
    elif len(parts := _listed(chunk)) > 1:
        for part in parts:
            _read_chunk(part, reading)
    else:
        _add_code(chunk, reading)


def _add_code(code: str, reading: Reading) -> None:
    reading.tokens.append(code)
    runs = re.findall(r"[^\W_]+(?:['’][^\W_]+)?", code)
    reading.words += max(1, sum(map(_length, runs)))


def _length(run: str) -> int:
    unspaced = sum(map(is_unspaced, run))
    return (unspaced + 1) // 2 if unspaced else 1


def _listed(chunk: str) -> list[str]:
    """Return the members of a list without spaces. A date or a range is one member."""
    if "," in chunk:
        return [part for part in chunk.split(",") if part]
    parts = re.split(r"/|(?<!\d)–|–(?!\d)", chunk)
    is_date = len(parts) <= 3 and all(re.fullmatch(r"\d{1,2}|\d{4}", part) for part in parts)
    return [chunk] if is_date else [part for part in parts if part]


def _fraction(chunk: str) -> Quantity | None:
    found = re.fullmatch(r"(-?)([1-9]\d*|0)/([1-9]\d*)", chunk)
    if not found or len(chunk) > MAX_DIGITS:
        return None
    return Quantity(Fraction(int(found[1] + found[2]), int(found[3])))


def _amounts(chunk: str, reading: Reading) -> list[Token]:
    """Return the tokens of one number with its currency and unit, or no token."""
    found = _AMOUNT.fullmatch(chunk)
    if found is None or len(chunk) > MAX_DIGITS:
        return []
    before, after = found["before"] or "", found["after"] or ""
    scale, unit, word = _suffix(after, is_money=bool(before))
    numeral = _NUMERAL.fullmatch(found["numeral"])
    if scale is None or numeral is None or (found["sign"] and found["inner"]):
        return []
    values = _values(numeral)
    sign = -1 if (found["sign"] or found["inner"]) in ("-", "–") else 1
    unit = _CURRENCY.get(before, unit)
    if not values:
        return []
    quantities = [Quantity(sign * value * scale, unit) for value in values]
    if not (before or after or found["sign"]):
        _add_list_reading(found["numeral"], reading)
    reading.others += quantities[1:]
    return [quantities[0], *([word] if word else [])]


def _suffix(after: str, *, is_money: bool) -> tuple[int | None, str, str]:
    """Return the scale, the currency or percent, and the unit that follow a number.

    The scale is `None` if the letters are none of these, as in a code such as `5a`.
    """
    if after in _SHORT_SCALES or (is_money and after in _MONEY_SCALES):
        return (_SHORT_SCALES | _MONEY_SCALES)[after], "", ""
    if after in _PERCENT:
        return 1, "%", ""
    if after in _CURRENCY:
        return 1, _CURRENCY[after], ""
    return (1 if after in _UNITS or not after else None), "", after


def _values(numeral: re.Match[str]) -> list[Fraction]:
    """Return the values that a numeral may have. A leading zero makes it a code, such as 007."""
    if grouped := numeral["grouped"]:
        digits = grouped.replace(",", "") + (numeral["cents"] or "")
    elif european := numeral["european"]:
        digits = f"{european.replace('.', '')}.{numeral['decimals']}"
    elif dotted := numeral["dotted"]:
        digits = dotted.replace(".", "")
    elif comma := numeral["comma"]:
        digits = comma.replace(",", ".")
    else:
        digits = numeral["plain"]
    if re.match(r"0\d", digits):
        return []
    exponent = numeral["exponent"] or ""
    if exponent and "." not in digits and not re.search(r"[+-]", exponent):
        return []  # an article code such as 1e5
    return [Fraction(digits + exponent)]


def _add_list_reading(numeral: str, reading: Reading) -> None:
    """Add the numbers of a list without spaces that can also be read as one number."""
    members = numeral.split(",")
    if len(members) < 2 or any(re.fullmatch(r"0\d+|\d*\.\d+", member) for member in members):
        return
    if len(members[0]) < 3 and all(len(member) == 3 for member in members[1:]):
        return  # 1,234 is no list
    numbers = [Quantity(Fraction(member)) for member in members]
    if len(members) == 2:
        reading.pairs.append((numbers[0], numbers[1]))
    else:
        reading.others += numbers
    reading.words += len(members) - 1


def _with_units(tokens: list[Token]) -> list[Token]:
    """Join a number with a scale, a currency or percent in the next word, or a currency before."""
    joined: list[Token] = []
    for token in tokens:
        last = joined[-1] if joined else None
        if isinstance(last, Quantity) and isinstance(token, str):
            if token in _SCALES:
                joined[-1] = Quantity(last.value * _SCALES[token], last.unit)
                continue
            if not last.unit and (token in _CURRENCY or token in _PERCENT):
                joined[-1] = Quantity(last.value, _CURRENCY.get(token, "%"))
                continue
        if isinstance(token, Quantity) and not token.unit and last in _CURRENCY:
            joined[-1] = Quantity(token.value, _CURRENCY[str(last)])
            continue
        joined.append(token)
    return joined


def _without_days(tokens: list[Token]) -> list[Token]:
    """Turn the day in a date such as `January 5` into a code."""
    days = {Quantity(Fraction(day)) for day in range(1, 32)}
    result = list(tokens)
    for index, token in enumerate(tokens):
        if isinstance(token, Quantity) and token in days:
            around = tokens[max(0, index - 1) : index + 2]
            if any(isinstance(near, str) and near in _MONTHS for near in around):
                result[index] = str(token.value)
    return result
