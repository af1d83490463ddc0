"""One equality for all values: reflexive, symmetric, exact for integers, never across types."""

import math
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envgym.values import equal, fold, identity, is_among

NUMBERS = st.integers() | st.floats() | st.integers(min_value=-(2**63), max_value=2**63 - 1)
CELLS = st.none() | st.booleans() | NUMBERS | st.text() | st.binary()
VALUES = st.recursive(
    CELLS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
)


def kind(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return type(value).__name__
    return "number" if isinstance(value, int | float) else type(value).__name__


@given(VALUES, st.sampled_from([0.0, 1e-13, 0.1]), st.booleans())
def test_every_value_equals_itself(value, tolerance, folded):
    assert equal(value, value, tolerance=tolerance, folded=folded)
    assert identity(value) == identity(value)


@given(VALUES, VALUES)
def test_the_order_does_not_matter(one, other):
    assert equal(one, other) == equal(other, one)
    assert equal(one, other, folded=True) == equal(other, one, folded=True)


@given(CELLS, CELLS)
def test_values_of_two_types_are_never_equal(one, other):
    if kind(one) != kind(other):
        assert not equal(one, other, tolerance=0.5, folded=True)
        assert identity(one) != identity(other)


@given(st.integers(), st.integers(min_value=1), st.sampled_from([1e-13, 1e-3, 0.5]))
def test_two_different_integers_are_never_equal(number, distance, tolerance):
    assert not equal(number, number + distance, tolerance=tolerance)


@given(st.integers(min_value=-(2**52), max_value=2**52), st.integers(1, 1000))
def test_a_whole_float_is_an_integer_too(number, distance):
    assert equal(number, float(number))
    assert not equal(number, float(number + distance), tolerance=0.5)
    assert not equal(float(number), float(number + distance), tolerance=0.5)


@given(NUMBERS)
def test_an_infinity_equals_only_itself(number):
    for infinity in (math.inf, -math.inf):
        assert equal(infinity, number) == (number == infinity)


@given(st.floats(allow_nan=False, allow_infinity=False).filter(lambda x: x != int(x)))
def test_a_float_equals_its_neighbour_unless_the_tolerance_is_zero(number):
    neighbour = math.nextafter(number, math.inf)
    assert not equal(number, neighbour, tolerance=0)
    if abs(number) > 1e-300 and neighbour:
        assert equal(number, neighbour)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (0.1 + 0.2, 0.3, True),
        (0, 0.3 - 0.1 - 0.2, True),
        (10, 9.999999999999998, True),
        (1_700_000_000_123, 1_700_000_000_123.5, False),
        (10**400, 1.5, False),
        (10**400, math.inf, False),
        (Decimal("1.5"), 1.5, True),
        (Fraction(1, 2), 0.5, True),
        (float("nan"), float("nan"), True),
        (float("nan"), 0, False),
        ((1, "a"), [1, "a"], True),
        ((1, "a"), (True, "a"), False),
        ({"a": 1}, {"a": 1.0}, True),
        ({"a": 1}, {"a": True}, False),
        (b"a", bytearray(b"a"), True),
    ],
)
def test_values_by_hand(one, other, expected):
    assert equal(one, other) is expected
    assert equal(other, one) is expected


def test_text_is_exact_unless_it_is_folded():
    assert not equal("Closed  Won", "closed won")
    assert equal("Closed  Won\n", "closed won", folded=True)
    assert equal("Jose\u0301", "JOSÉ", folded=True)
    assert not equal(["A"], ["a"])
    assert equal(["A"], ["a"], folded=True)
    assert fold(" A\tb ") == "a b"


def test_a_choice_has_the_type_and_the_value():
    assert is_among(2, [1, 2])
    assert is_among("2", ["1", "2"])
    assert not is_among(2.0, [1, 2])
    assert not is_among(True, [1, 2])
    assert not is_among("2", [1, 2])
    assert is_among(None, ["a", None])
