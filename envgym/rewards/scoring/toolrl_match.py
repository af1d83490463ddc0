"""Correctness in ToolRL: the similarity of the answer's calls and the truth's calls, from 0 to 1.

A call is one line of JSON, `{"name": ..., "parameters": {...}}`. Values compare as in Python: 21 ==
21.0 and True == 1; the order of keys is free, the order of lists is not; strings compare exactly.
Source: arXiv 2504.13958, section 3.3; `compute_tool_call_reward` of its code, commit 8cee13e.
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
"""Index of a call of the truth -> index of the matched call of the answer."""


class _Unreadable(Exception):
    """The answer's calls cannot be compared; the answer gets the minimum."""


def correctness_score(
    text: str,
    truth: str,
    *,
    granularity: Granularity = "default",
    matching: Matching = "greedy",
    names: Names = "multiset",
    guard: bool = False,
) -> float | None:
    """Return the similarity of the calls; 1.0 for the truth's calls in its order.

    Each call of the truth is matched with a call of the same name. The score is

        (similarity of the names + sum of m over the matched calls) / S
        m = similarity of the keys + number of right values
        S = 1 + sum over the truth's calls (1 + number of its parameters)

    Similarity is the Jaccard index.

    Args:
        granularity: `default`: as above. `refined`: similarities are 1 for lists that are equal
            including order, otherwise 0. `intermediate`: a matched call scores 1 if it is equal as
            a whole, otherwise 0, and S = 1 + number of the truth's calls. `coarse`: 1.0 if
            everything is equal, otherwise 0.0.
        matching: `greedy`: the truth's calls choose in turn, and the first best call is taken (the
            code). `optimal`: the matching of the largest sum (the paper).
        names: Similarity of the names: `multiset` (the code), `set` (the paper), or `exact` for
            equality.
        guard: Also add the extra parts of the answer to S: 1 + its parameters for each unmatched
            call (1 with `intermediate`), and 1 for each key that the matched call of the truth
            lacks. Additional guesses then never pay.

    Returns:
        Score from 0.0 to 1.0; 0.0 if the answer's calls cannot be read. `None` if the truth has no
        tool call.

    Raises:
        UsageError: If the truth cannot be read; see `truth_calls`.
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
    except (_Unreadable, RecursionError):  # deeply nested JSON exceeds Python's recursion limit
        return 0.0


def truth_calls(truth: str) -> list[dict[str, Any]]:
    """Return the calls of a truth; an empty list if it has no `<tool_call>`.

    Raises:
        UsageError: If a line is not a JSON object with a `name` (a string) and `parameters` (an
            object). The reference raises for broken JSON only; without a name or parameters, it
            gives every other answer the minimum.
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
    """Return the JSON values in the answer's block, which are not necessarily calls."""
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
    """Return the credit for matching a call of the answer with a call of the truth."""
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
    """Return the Jaccard index of two lists, as multisets or sets; `exact` gives 1.0 or 0.0."""
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
    """Return the maximum credit of a call."""
    parameters = call.get("parameters")
    return 1 + (
        len(parameters) if isinstance(parameters, dict) and granularity != "intermediate" else 0
    )


def _extras(
    wanted: list[dict[str, Any]], made: list[dict[str, Any]], pairs: Pairs, granularity: Granularity
) -> int:
    """Return the size of the calls and keys that only the answer contains."""
    alone = sum(_size(call, granularity) for j, call in enumerate(made) if j not in pairs.values())
    if granularity == "intermediate":
        return alone
    return alone + sum(
        len(made[j]["parameters"].keys() - wanted[i]["parameters"].keys()) for i, j in pairs.items()
    )


# --- matching ---


def greedy_pairs(gains: Sequence[Sequence[float]]) -> Pairs:
    """Pair each row in turn with the free column of the largest gain.

    The first of equal columns is taken. A row without a positive gain stays unpaired.
    """
    pairs: Pairs = {}
    for i, row in enumerate(gains):
        free = [j for j in range(len(row)) if j not in pairs.values()]
        best = max(free, key=lambda j: row[j], default=None)
        if best is not None and row[best] > 0:
            pairs[i] = best
    return pairs


def optimal_pairs(gains: Sequence[Sequence[float]]) -> Pairs:
    """Return the pairs with the largest sum and positive gains (Hungarian method).

    The time is O(rows² · columns).

    References:
        Kuhn 1955, in the form with shortest augmenting paths of Jonker and Volgenant 1987.
    """
    rows = len(gains)
    columns = len(gains[0]) if gains else 0
    # One extra column per row stands for "unpaired".
    costs = [[-gain for gain in row] + [0.0] * rows for row in gains]
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
    """Assign a column to one more row, moving other rows along the cheapest path."""
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
