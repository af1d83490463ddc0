"""Entailment: the same fact or another (L0), bounds on a number (L1), chained comparisons (L2).

The hypothesis alone carries no information: its form, and the frequency of "more" and "fewer", are
the same under every label. Held out: two bounds at once.
"""

from __future__ import annotations

from parts import PEOPLE, THINGS, in_turn, labelled, several, two_wordings

from envgym import Draw, Task, template

LABELS = ("entailment", "contradiction", "neutral")
BOUGHT = (
    "{who} bought exactly {n} {what}s.",
    "Exactly {n} {what}s were bought by {who}.",
    "{who} bought {n} {what}s, no more and no fewer.",
    "The number of {what}s that {who} bought is {n}.",
    "{n} is the number of {what}s that {who} bought.",
    "Of {what}s, {who} bought {n} and no other number.",
    "{who} bought {what}s, {n} in number.",
    "Precisely {n} {what}s were bought by {who}.",
    "{who} bought {what}s: {n} exactly.",
    "Bought by {who}: {n} {what}s, precisely.",
)
AT_LEAST = (
    "{who} sold at least {n} {what}s.",
    "{who} sold {n} {what}s or more.",
    "No fewer than {n} {what}s were sold by {who}.",
    "{who} sold a minimum of {n} {what}s.",
    "{n} {what}s is the least that {who} sold.",
)
AT_MOST = (
    "{who} sold at most {n} {what}s.",
    "{who} sold {n} {what}s or fewer.",
    "No more than {n} {what}s were sold by {who}.",
    "{who} sold a maximum of {n} {what}s.",
    "{n} {what}s is the most that {who} sold.",
)
BETWEEN = (
    "{who} sold between {n} and {m} {what}s.",
    "{who} sold {n} to {m} {what}s.",
    "From {n} to {m} {what}s were sold by {who}.",
)
MORE = (
    "{who} sold more than {n} {what}s.",
    "More than {n} {what}s were sold by {who}.",
    "Of {what}s, {who} sold more than {n}.",
    "The {what}s that {who} sold are more than {n}.",
    "{who} has sold over {n} {what}s.",
)
FEWER = (
    "{who} sold fewer than {n} {what}s.",
    "Fewer than {n} {what}s were sold by {who}.",
    "Of {what}s, {who} sold fewer than {n}.",
    "The {what}s that {who} sold are fewer than {n}.",
    "{who} has sold under {n} {what}s.",
)
RELATIONS = (
    "{a} is older than {b}",
    "{a} is taller than {b}",
    "{a} runs faster than {b}",
    "{a} lives higher up than {b}",
    "{a} arrived earlier than {b}",
    "{a} earns more than {b}",
    "{a} sleeps longer than {b}",
    "{a} sings louder than {b}",
    "{a} carries heavier bags than {b}",
    "{a} swims further than {b}",
)


@template(level="L0")
def fact_follows(draw: Draw) -> Task:
    """Repeat a fact in other words, with another number, or about another person."""
    label = in_turn(draw, LABELS)
    who, other = several(draw, PEOPLE, 2)
    what = several(draw, THINGS, 1)[0]
    (n, m) = draw.rng.sample(range(2, 60), 2)
    frame, again = two_wordings(draw, BOUGHT)
    slots = {
        "entailment": (who, n),
        "contradiction": (who, m),
        "neutral": (other, draw.rng.choice((n, m))),
    }[label]
    return _pair(
        draw,
        frame.format(who=who, n=n, what=what),
        again.format(who=slots[0], n=slots[1], what=what),
        label,
    )


@template(level="L1")
def bound_follows(draw: Draw) -> Task:
    """Give one bound on a number and ask about another bound.

    For "at least n": "more than m" with m < n follows, "fewer than m" with m <= n is impossible,
    and any bound beyond n is open. "At most n" is the mirror image.
    """
    label = in_turn(draw, LABELS)
    who = several(draw, PEOPLE, 1)[0]
    what = several(draw, THINGS, 1)[0]
    n = draw.rng.randint(20, 80)
    step = draw.rng.randint(2, 9)
    lower = draw.rng.random() < 0.5
    said = draw.wording(AT_LEAST if lower else AT_MOST).format(who=who, n=n, what=what)
    along = MORE if lower else FEWER
    inside = -step if lower else step
    bound, m = {
        "entailment": (along, n + inside),
        "contradiction": (FEWER if lower else MORE, n + draw.rng.choice((inside, 0))),
        "neutral": (draw.rng.choice((MORE, FEWER)), n - inside),
    }[label]
    return _pair(draw, said, draw.wording(bound).format(who=who, n=m, what=what), label)


@template(level="L1", splits=("test",))
def range_follows(draw: Draw) -> Task:
    """Give a range from n to m, both included, and ask about a bound.

    "More than k" follows for k < n, is impossible for k >= m, and is open between them. "Fewer" is
    the mirror image.
    """
    label = in_turn(draw, LABELS)
    who = several(draw, PEOPLE, 1)[0]
    what = several(draw, THINGS, 1)[0]
    n = draw.rng.randint(20, 80)
    width = draw.rng.randint(4, 12)
    step = draw.rng.randint(1, 9)
    m = n + width
    inside = draw.rng.randint(1, width - 1)
    said = draw.rng.choice(BETWEEN).format(who=who, n=n, m=m, what=what)
    bound, k = draw.rng.choice(
        {
            "entailment": ((MORE, n - step), (FEWER, m + step)),
            "contradiction": ((MORE, m + step), (FEWER, n - step)),
            "neutral": ((MORE, n + inside), (FEWER, n + inside)),
        }[label]
    )
    return _pair(draw, said, draw.wording(bound).format(who=who, n=k, what=what), label)


@template(level="L2")
def chain_follows(draw: Draw) -> Task:
    """Give a > b > c and ask about two of the people.

    A fourth person d is only known to be below a, or only to be above c. So c and a compare in two
    steps, and b and d do not compare.
    """
    label = in_turn(draw, LABELS)
    a, b, c, d = several(draw, PEOPLE, 4)
    relation = draw.wording(RELATIONS)
    pairs = [(a, b), (b, c), draw.rng.choice(((a, d), (d, c)))]
    draw.rng.shuffle(pairs)
    said = " ".join(relation.format(a=one, b=other) + "." for one, other in pairs)
    asked = {
        "entailment": (a, c),
        "contradiction": (c, a),
        "neutral": draw.rng.choice(((b, d), (d, b))),
    }[label]
    return _pair(draw, said, relation.format(a=asked[0], b=asked[1]) + ".", label)


def _pair(draw: Draw, premise: str, hypothesis: str, label: str) -> Task:
    return labelled(draw, f"Premise: {premise}\nHypothesis: {hypothesis}", label, LABELS)
