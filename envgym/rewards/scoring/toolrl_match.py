"""ToolRL's correctness: how near the calls of an answer come to those of the truth, from 0 to 1.

A call is one line of JSON, `{"name": ..., "parameters": {...}}`. Values are equal as Python has it: 21 == 21.0 and True == 1, the
order of keys is free, that of lists is not, and strings are compared to the letter.
Source: ToolRL, arXiv 2504.13958, section 3.3, and `compute_tool_call_reward` of its code at commit 8cee13e.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

from envgym.errors import UsageError
from envgym.rewards.scoring.toolrl_text import TOOL_CALL, call_lines

Granularity = Literal["default", "refined", "intermediate", "coarse"]
Matching = Literal["greedy", "optimal"]
Names = Literal["multiset", "set", "exact"]
Pairs = dict[int, int]
"""Index of a truth's call -> index of the answer's call that it is matched with."""


class _Unreadable(Exception):
    """The answer's calls cannot be compared: the model's mistake, which earns the minimum."""


def correctness_score(
    text: str,
    truth: str,
    *,
    granularity: Granularity = "default",
    matching: Matching = "greedy",
    names: Names = "multiset",
    guard: bool = False,
) -> float | None:
    """How right the calls of an answer are; 1.0 for those of the truth in its order, 0.0 for what cannot be read.

    Each call of the truth is matched with one of the same name, and the score is

        (likeness of the name lists + sum over matched calls (likeness of the key lists + number of right values)) / S
        S = 1 + sum over the truth's calls (1 + number of its parameters)

    Likeness is the Jaccard index.

    Args:
        granularity: `default` as above; `refined` takes name lists and key lists as 1 when they are equal, order included, else
            0; `intermediate` gives a matched call 1 when it is equal as a whole, else 0, and S = 1 + number of the truth's calls;
            `coarse` gives 1.0 when all is equal, else 0.0.
        matching: `greedy` lets the truth's calls choose in turn, the first best being taken (the code); `optimal` takes the
            matching of the largest sum (the paper).
        names: likeness of the name lists: of multisets (the code), of sets (the paper), or `exact`, which is equality.
        guard: also counts in S what only the answer has: 1 + its parameters for each call that is matched with none (1 alone
            with `intermediate`), and 1 for each key that the matched call of the truth lacks. So a guess more never pays.
    Returns: None for a truth without a tool call, which says nothing about calls.
    Raises: UsageError for a truth that cannot be read, see `truth_calls`.
    """
    if TOOL_CALL[0] not in truth:
        return None
    wanted = truth_calls(truth)
    try:
        made = _calls_in(text)
        if wanted == made:
            return 1.0
        if granularity == "coarse":
            return 0.0
        return _partial(
            wanted,
            made,
            granularity,
            matching,
            "exact" if granularity == "refined" else names,
            guard,
        )
    except (_Unreadable, RecursionError):  # JSON may be nested deeper than Python reads or compares
        return 0.0


def truth_calls(truth: str) -> list[dict[str, Any]]:
    """The calls that a truth asks for; [] where it holds no `<tool_call>`.

    Raises: UsageError naming the line that is no JSON object with a `name` (a string) and `parameters` (an object). The reference
        raises for broken JSON; where a name or parameters are missing it scores every other answer as the minimum.
    """
    calls = []
    for number, line in enumerate(call_lines(truth), start=1):
        try:
            call = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UsageError(
                f"truth: line {number} of <tool_call> is not JSON ({error}): {_short(line)}"
            ) from None
        if (
            not isinstance(call, dict)
            or not isinstance(call.get("name"), str)
            or not isinstance(call.get("parameters"), dict)
        ):
            form = '{"name": "...", "parameters": {...}}, one call a line'
            raise UsageError(
                f"truth: line {number} of <tool_call> must look like {form}, got {_short(line)}"
            )
        calls.append(call)
    return calls


def _calls_in(text: str) -> list[Any]:
    """What stands in the answer's block, not necessarily calls."""
    if any(tag not in text for tag in TOOL_CALL):
        raise _Unreadable
    try:
        return [json.loads(line) for line in call_lines(text)]
    except (ValueError, RecursionError):
        raise _Unreadable from None


def _partial(
    wanted: list[dict[str, Any]],
    made: list[Any],
    granularity: Granularity,
    matching: Matching,
    names: Names,
    guard: bool,
) -> float:
    if any(not isinstance(call, dict) or "name" not in call for call in made):
        raise _Unreadable
    gains = [[_gain(one, other, granularity) for other in made] for one in wanted]
    pairs = greedy_pairs(gains) if matching == "greedy" else optimal_pairs(gains)
    score = likeness([call["name"] for call in wanted], [call["name"] for call in made], names)
    score += sum(gains[i][j] for i, j in pairs.items())
    most = 1 + sum(_size(call, granularity) for call in wanted)
    if guard:
        most += _extras(wanted, made, pairs, granularity)
    return score / most


def _gain(wanted: dict[str, Any], made: dict[str, Any], granularity: Granularity) -> float:
    """What the answer's call earns when it is matched with the truth's."""
    if made["name"] != wanted["name"]:
        return 0.0
    if granularity == "intermediate":
        return float(made == wanted)
    due = wanted["parameters"]
    given = made.get("parameters")
    if not isinstance(given, dict):
        raise _Unreadable
    keys = likeness(list(due), list(given), "exact" if granularity == "refined" else "multiset")
    return keys + sum(key in given and given[key] == value for key, value in due.items())


def likeness(one: Sequence[Any], other: Sequence[Any], how: Names) -> float:
    """Jaccard index of two lists, 1.0 for equal ones: of multisets, of sets, or 0.0 for lists that differ (`exact`)."""
    if one == other:
        return 1.0
    if how == "exact" or not one or not other:
        return 0.0
    try:
        left, right = (
            (Counter(one), Counter(other))
            if how == "multiset"
            else (Counter(set(one)), Counter(set(other)))
        )
    except TypeError:  # a name that is a list or an object
        raise _Unreadable from None
    return (left & right).total() / (left | right).total()


def _size(call: dict[str, Any], granularity: Granularity) -> int:
    """The most that a call can earn."""
    parameters = call.get("parameters")
    return 1 + (
        len(parameters) if isinstance(parameters, dict) and granularity != "intermediate" else 0
    )


def _extras(
    wanted: list[dict[str, Any]], made: list[dict[str, Any]], pairs: Pairs, granularity: Granularity
) -> int:
    """The size of what only the answer has."""
    alone = sum(_size(call, granularity) for j, call in enumerate(made) if j not in pairs.values())
    if granularity == "intermediate":
        return alone
    return alone + sum(
        len(made[j]["parameters"].keys() - wanted[i]["parameters"].keys()) for i, j in pairs.items()
    )


# -- matching ----------------------------------------------------------------------------------------------------------


def greedy_pairs(gains: Sequence[Sequence[float]]) -> Pairs:
    """Each row in turn takes the free column that gives it most, the first of equals; a row that would gain nothing takes none."""
    pairs: Pairs = {}
    for i, row in enumerate(gains):
        free = [j for j in range(len(row)) if j not in pairs.values()]
        best = max(free, key=lambda j: row[j], default=None)
        if best is not None and row[best] > 0:
            pairs[i] = best
    return pairs


def optimal_pairs(gains: Sequence[Sequence[float]]) -> Pairs:
    """The pairs of the largest sum, among those that gain something: the Hungarian method, O(rows² · columns).

    Source: Kuhn 1955, in the form with prices and shortest augmenting paths of Jonker and Volgenant 1987.
    """
    rows = len(gains)
    columns = len(gains[0]) if gains else 0
    costs = [
        [-gain for gain in row] + [0.0] * rows for row in gains
    ]  # a column of its own for each row that goes without
    owner: list[int | None] = [None] * (columns + rows)
    row_price = [0.0] * rows
    column_price = [0.0] * (columns + rows)
    for row in range(rows):
        _place(row, costs, owner, row_price, column_price)
    return {i: j for j, i in enumerate(owner[:columns]) if i is not None and gains[i][j] > 0}


def _place(
    row: int,
    costs: list[list[float]],
    owner: list[int | None],
    row_price: list[float],
    column_price: list[float],
) -> None:
    """Gives one more row a column, moving others along the cheapest path."""
    distance = [math.inf] * len(owner)
    before = [-1] * len(owner)
    reached = dict[int, float]()
    at = row
    column = -1
    so_far = 0.0
    while True:
        for j in range(len(owner)):
            step = so_far + costs[at][j] - row_price[at] - column_price[j]
            if j not in reached and step < distance[j]:
                distance[j], before[j] = step, column
        column = min((j for j in range(len(owner)) if j not in reached), key=distance.__getitem__)
        so_far = distance[column]
        holder = owner[column]
        if holder is None:
            break
        reached[column], at = so_far, holder
    row_price[row] += so_far
    for j, when in reached.items():
        row_price[owner[j]] += so_far - when  # type: ignore[index]
        column_price[j] -= so_far - when
    while before[column] >= 0:
        owner[column], column = owner[before[column]], before[column]
    owner[column] = row


def _short(line: str) -> str:
    return repr(line if len(line) <= 80 else f"{line[:77]}...")
